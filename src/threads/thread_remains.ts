/**
 * What a thread leaves behind: one that was dropped by Deno before its contexts could be disposed, or
 * one whose function has not closed what it opened.
 *
 * The thread is gone, so nobody but the caller does anything for it. Its places are closed and the
 * partners of their links told; then rings and thread pools, which the places name, are given back, and
 * the fds that objects of the thread owned are closed. What is left is what it was just opening, or
 * closing, and an eventfd that a thread may still write to.
 */
import { Board, PlaceWord } from "../../ffi/board.ts";
import { FdOwners } from "../../ffi/fd_owners.ts";
import { loadLiburing } from "../../ffi/library.ts";
import { Links } from "../../ffi/link.ts";
import { exitRing } from "../../ffi/ring.ts";
import type { Shim } from "../../ffi/shim_symbols.ts";
import { System } from "../../ffi/system.ts";

/** The libraries that the thread has used. */
export interface ThreadLibraries {
  readonly shim: Shim;
  /** Path of liburing.so.2, where it was given one. */
  readonly liburing?: string;
}

/** Gives back what a thread had that has ended. */
export function reapThread(libraries: ThreadLibraries, thread: number): void {
  const { shim } = libraries;
  const board = Board.of(shim), system = new System(shim);
  for (const place of [...board.placesOf(thread)]) reapPlace(libraries, place);
  for (const fd of [...FdOwners.of(shim).of(thread)]) {
    // Whatever it says: the table is not to name the fd any more.
    system.disown(fd);
    shim.aio_close(fd);
  }
}

function reapPlace({ shim, liburing }: ThreadLibraries, place: number): void {
  const board = Board.of(shim), system = new System(shim);
  const generation = board.generation(place);
  board.close(place);
  releaseLinks(shim, { place, generation });
  const ring = board.ringMemory(place);
  if (ring.some((word) => word !== 0n)) exitRing(loadLiburing({ liburing }), ring);
  const pool = board.pool(place);
  if (pool !== null) {
    board.keepPool(place, 0n);
    shim.aio_pool_abandon(pool);
  }
  // Its thread gives the rest back, and ends.
  const waiter = board.waiter(place);
  if (waiter !== -1) shim.aio_close(waiter);
  board.keepWaiter(place, 0, 0);
  // The eventfd is among those of the thread.
  const fd = board.words[place + PlaceWord.fd];
  if (!board.release(place)) system.disown(fd);
}

function releaseLinks(shim: Shim, context: { place: number; generation: number }): void {
  const board = Board.of(shim), links = new Links(shim), system = new System(shim);
  const signal = (fd: number) => system.signal(fd);
  for (const link of links.of(context)) {
    const side = link.sideOf(context);
    if (side === 0) continue;
    const { number } = link, partner = link.partner(side);
    links.release(link, side, number);
    if (board.isPlace(partner.place)) {
      board.wake(partner.place, partner.generation, signal, link.index);
    }
  }
}
