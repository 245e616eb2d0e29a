/**
 * What the guest of `scale --vhost` and the measurement share beside the rings: a page of words that
 * both processes map.
 *
 * The guest alone writes its counters, and the measurement reads them at both ends of its window, so
 * no message has to come at the right moment.
 */
import { closeSync, openSync } from "node:fs";
import { MappedMemory, MemFd } from "../../mod.ts";
import { bucketOf, GuestCounts, LATENCY_BUCKETS } from "./scale_guest.ts";

const BOARD_BYTES = 4096;
/** Indexes of 32-bit words. */
const STATE = 0, STOP = 1, KICKS = 2, LATENCIES = 16;
const RUNNING = 1;

/** The shared words. */
export class GuestBoard implements Disposable {
  readonly #file: MemFd | null;
  readonly #memory: MappedMemory;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #latencies: Uint32Array<SharedArrayBuffer>;

  private constructor(file: MemFd | null, memory: MappedMemory) {
    this.#file = file;
    this.#memory = memory;
    this.#words = new Int32Array(memory.buffer, memory.byteOffset, BOARD_BYTES / 4);
    const at = memory.byteOffset + LATENCIES * 4;
    this.#latencies = new Uint32Array(memory.buffer, at, LATENCY_BUCKETS);
  }

  /** Makes one. */
  static make(): GuestBoard {
    const file = new MemFd("scale guest", { size: BOARD_BYTES, sealable: true });
    file.seal("shrink", "grow", "seal");
    return new GuestBoard(file, new MappedMemory(file.fd));
  }

  /** Opens that of another process, by its `path`. */
  static open(path: string): GuestBoard {
    const fd = openSync(path, "r+");
    try {
      return new GuestBoard(null, new MappedMemory(fd));
    } finally {
      closeSync(fd);
    }
  }

  /** By which another process of this user opens it. */
  get path(): string {
    return `/proc/${Deno.pid}/fd/${this.#file!.fd}`;
  }

  /** The guest has begun. */
  get isRunning(): boolean {
    return Atomics.load(this.#words, STATE) === RUNNING;
  }

  /** For the guest: it begins. */
  begin(): void {
    Atomics.store(this.#words, STATE, RUNNING);
  }

  /** The guest is to end. */
  stop(): void {
    Atomics.store(this.#words, STOP, 1);
  }

  /** For the guest: whether it is to end. */
  get isStopped(): boolean {
    return Atomics.load(this.#words, STOP) === 1;
  }

  /** For the guest: counts a request that is back after so long. */
  countRequest(latencyNs: number): void {
    this.#latencies[bucketOf(latencyNs)]++;
  }

  /** For the guest: how often it has kicked. */
  setKicks(kicks: number): void {
    this.#words[KICKS] = kicks;
  }

  /** A copy of the counters, off by the request in the making at most. */
  count(): GuestCounts {
    return new GuestCounts(this.#words[KICKS], new Uint32Array(this.#latencies));
  }

  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
    this.#file?.[Symbol.dispose]();
  }
}
