/**
 * What a thread leaves behind that was dropped by Deno before its contexts could be disposed.
 *
 * The thread is gone, so nobody but the caller does anything for its places: they are closed, the
 * partners of their links are told, and the fds and memory that the place names are given back.
 */
import { Board, PlaceWord } from "../../ffi/board.ts";
import { Links } from "../../ffi/link.ts";
import type { Shim } from "../../ffi/shim_symbols.ts";
import { System } from "../../ffi/system.ts";

/** Gives back what the contexts of a thread had, which has ended without that. */
export function reapThread(shim: Shim, thread: number): void {
  const board = Board.of(shim), links = new Links(shim), system = new System(shim);
  const signal = (fd: number) => system.signal(fd);
  for (const place of [...board.placesOf(thread)]) {
    const generation = board.generation(place);
    if (!board.close(place)) continue;
    for (const link of links.of({ place, generation })) {
      const side = link.sideOf({ place, generation });
      if (side === 0) continue;
      const { number } = link;
      const partner = link.partner(side);
      links.release(link, side, number);
      board.wake(partner.place, partner.generation, signal, link.index);
    }
    const fd = board.words[place + PlaceWord.fd];
    if (board.release(place)) system.close(fd);
  }
}
