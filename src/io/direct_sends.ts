/**
 * Sends that are made at once, without the ring.
 *
 * Where little is going on, an answer is sent after each message that comes in, and then the loop
 * sleeps. Through the ring that send is complete in the enter which submits it, so it takes an
 * iteration of its own to say so, and another enter to sleep. A socket with room takes data as
 * quickly from a plain system call, and the receive that is made next is submitted by the enter that
 * sleeps. Many at once are faster on a ring, which takes them all with one call. As with reads from
 * the page cache, only so many are made between two iterations.
 */
import type { Shim } from "../../ffi/shim_symbols.ts";
import { allocateNative } from "../../ffi/memory.ts";
import { SQE_WORDS } from "../../ffi/sqe.ts";
import { PollEvent, type System } from "../../ffi/system.ts";
import type { RequestQueue } from "../request_queue.ts";
import type { IoRequest } from "./promised_request.ts";

/** From so many completions in an iteration on they are left to the ring. */
const BATCH_MIN = 4;

/** Sends at once, for the sockets of one context. */
export class DirectSends {
  readonly #shim: Shim;
  readonly #system: System;
  readonly #queue: RequestQueue;
  readonly #sqe = allocateNative(SQE_WORDS * 4);

  /** @param system counts its calls */
  constructor(shim: Shim, system: System, queue: RequestQueue) {
    this.#shim = shim;
    this.#system = system;
    this.#queue = queue;
  }

  /** Whether a request is a send that is better made at once. */
  isWorthwhile({ operation }: IoRequest): boolean {
    if (operation.events !== PollEvent.out || operation.disk) return false;
    return this.#queue.mayAnswer && this.#queue.batch < BATCH_MIN;
  }

  /**
   * Makes the request.
   *
   * @returns its result, or a number < 0 where it has to be made in the ordinary way, which then
   *   tells why
   */
  send(request: IoRequest): number {
    this.#sqe.i32.fill(0);
    request.prepare(this.#sqe.i32, 0);
    this.#system.calls++;
    this.#queue.answered++;
    return this.#shim.aio_execute(this.#sqe.pointer);
  }
}
