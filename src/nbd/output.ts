/**
 * Replies on their way to a client.
 *
 * While one send is under way replies gather, and go out with the next, all in one message whose
 * parts are the headers and payloads where they are. The first of them waits for the end of the
 * promise jobs that are due, so that what one receive has brought and the page cache answered goes
 * out as one. Invariant: a request is told that it is finished once its bytes are the kernel's, or
 * nobody wants them.
 */
import type { AioSocket } from "../../mod.ts";
import type { NbdRequest } from "./request.ts";
import type { NbdCounters } from "./stats.ts";

/** Parts of one message, of which the kernel takes up to 1024. */
const PARTS_MAX = 1024;

const NOW: Promise<void> = Promise.resolve();

/** The replies of one connection. */
export class NbdOutput {
  readonly #socket: AioSocket;
  readonly #counters: NbdCounters;
  readonly #finished: (request: NbdRequest) => void;
  readonly #failed: (error: unknown) => void;
  /** To be sent next, and what is being sent. */
  #ready: NbdRequest[] = [];
  #sending: NbdRequest[] = [];
  #parts: Uint8Array<ArrayBuffer>[] = [];
  #busy = false;
  #broken = false;
  readonly #send = (): Promise<void> => this.#sendAll();

  /**
   * @param finished a reply has been sent, or nobody wants it
   * @param failed the client is gone
   */
  constructor(
    socket: AioSocket,
    counters: NbdCounters,
    finished: (request: NbdRequest) => void,
    failed: (error: unknown) => void,
  ) {
    this.#socket = socket;
    this.#counters = counters;
    this.#finished = finished;
    this.#failed = failed;
  }

  /** Sends the replies of a request soon. */
  add(request: NbdRequest): void {
    this.#ready.push(request);
    if (this.#busy) return;
    this.#busy = true;
    void NOW.then(this.#send);
  }

  async #sendAll(): Promise<void> {
    while (this.#ready.length !== 0) {
      const sending = this.#ready;
      this.#ready = this.#sending;
      this.#sending = sending;
      if (!this.#broken) {
        try {
          await this.#sendReplies(sending);
        } catch (error) {
          this.#broken = true;
          this.#failed(error);
        }
      }
      for (const request of sending) this.#finished(request);
      sending.length = this.#parts.length = 0;
    }
    this.#busy = false;
  }

  async #sendReplies(requests: readonly NbdRequest[]): Promise<void> {
    const parts = this.#parts;
    for (const { replies } of requests) for (const part of replies) parts.push(part);
    this.#counters.sends++;
    if (parts.length === 1) return await this.#socket.sendAll(parts[0]);
    // Nobody else sends here, so a part that did not go out may go with another message.
    for (let next = 0; next < parts.length;) {
      const end = Math.min(parts.length, next + PARTS_MAX);
      const some = next === 0 && end === parts.length ? parts : parts.slice(next, end);
      let count = await this.#socket.writev(some);
      while (next < end && count >= parts[next].length) count -= parts[next++].length;
      if (count !== 0) parts[next] = parts[next].subarray(count);
    }
  }
}
