/**
 * Cancellations for a ring, held back until its next enter: a caller's chain of linked requests must
 * not have an SQE of the loop in its middle, which would cut it.
 *
 * Each is an opcode and the slot of whom it is for. One that is no longer wanted, as the request goes on
 * under its old slot, can be taken back until then.
 */
import type { Ring } from "../ffi/ring.ts";
import { SqeOp, SqeWord } from "../ffi/sqe.ts";

/** Upper half of the user_data of requests; that of handlers is 0. */
export const REQUEST = 1;

/** The cancellations of one ring. */
export class RingCancels {
  readonly #ring: Ring;
  readonly #nextSqe: () => number;
  /** An opcode and a slot each. */
  readonly #held: number[] = [];

  /** @param nextSqe has the ring make room where there is none, and may throw */
  constructor(ring: Ring, nextSqe: () => number) {
    this.#ring = ring;
    this.#nextSqe = nextSqe;
  }

  /** Whether there are none. */
  get empty(): boolean {
    return this.#held.length === 0;
  }

  /** Cancels the poll of a handler. */
  addHandler(slot: number): void {
    this.#held.push(SqeOp.pollRemove, slot);
  }

  /** Cancels a request. */
  addRequest(slot: number): void {
    this.#held.push(SqeOp.asyncCancel, slot);
  }

  /** Takes back those of the last request that had a slot. */
  dropRequest(slot: number): void {
    const held = this.#held;
    for (let at = held.length - 2; at >= 0; at -= 2) {
      if (held[at] === SqeOp.asyncCancel && held[at + 1] === slot) held.splice(at, 2);
    }
  }

  /** Puts all into the ring. */
  submit(): void {
    const words = this.#ring.sqes;
    while (this.#held.length !== 0) {
      // This may throw, so nobody is taken off the list before.
      const at = this.#nextSqe();
      const slot = this.#held.pop()!, opcode = this.#held.pop()!;
      words[at + SqeWord.opcode] = opcode;
      words[at + SqeWord.fd] = -1;
      words[at + SqeWord.addr] = slot;
      words[at + SqeWord.addr + 1] = opcode === SqeOp.asyncCancel ? REQUEST : 0;
      this.#ring.push();
    }
  }

  /** Forgets all. */
  clear(): void {
    this.#held.length = 0;
  }
}
