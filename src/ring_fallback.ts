/**
 * Requests for files on a ring whose kernel lacks some of the operations, as ftruncate before
 * Linux 6.9: those are carried out on worker threads.
 *
 * Only what the ring refuses goes that way, and never what `addSqe` adds, which may be linked. A
 * cancellation is told to both, as the one that does not know the request does nothing.
 */
import { AioError, Errno } from "../ffi/errno.ts";
import type { AioRequest, RequestDevice } from "./request.ts";

/** A ring, and what stands in for it. */
export class RingFallback implements RequestDevice {
  readonly batches = true;
  readonly #ring: RequestDevice;
  readonly #openThreads: () => RequestDevice;
  #threads: RequestDevice | null = null;

  /** @param openThreads makes what stands in, when it is first needed */
  constructor(ring: RequestDevice, openThreads: () => RequestDevice) {
    this.#ring = ring;
    this.#openThreads = openThreads;
  }

  registerBuffer(address: number, byteLength: number): number {
    return this.#ring.registerBuffer(address, byteLength);
  }

  start(request: AioRequest): void {
    try {
      this.#ring.start(request);
    } catch (error) {
      const refused = error instanceof AioError && error.errno === Errno.EOPNOTSUPP;
      if (!refused || request.continuesChain) throw error;
      this.#threads ??= this.#openThreads();
      this.#threads.start(request);
    }
  }

  forget(fd: number): void {
    this.#threads?.forget(fd);
    this.#ring.forget(fd);
  }

  release(fd: number): boolean {
    return this.#ring.release(fd) && (this.#threads === null || this.#threads.release(fd));
  }

  cancel(request: AioRequest): void {
    this.#threads?.cancel(request);
    this.#ring.cancel(request);
  }

  quiesce(requests: readonly AioRequest[]): void {
    this.#threads?.quiesce(requests);
    this.#ring.quiesce(requests);
  }

  /** The ring is the backend's to dispose of. */
  dispose(): void {
    this.#threads?.dispose();
  }
}
