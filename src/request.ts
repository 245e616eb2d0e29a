/**
 * A request to the kernel and what carries it out. Types and the base class only.
 *
 * A request describes itself in an SQE, whatever the backend: the ring takes it as it is, the others
 * read it. It is in flight from `RequestDevice.start` until its last completion, and its `slot`,
 * never a pointer, is all the kernel knows of it. Memory the kernel may touch meanwhile is kept
 * alive by the request's own fields, and must be of the kind that cannot be detached.
 */

/** One request, which can be added again once it is complete. */
export abstract class AioRequest {
  /** Its number while it is in flight; 0 otherwise. */
  slot = 0;
  /** It waits for a slot. */
  waiting = false;
  /** It is a matter for a disk. */
  disk = false;
  /**
   * It goes past the page cache: submitted together, such requests reach the disk as late as the last
   * of them.
   */
  direct = false;
  /** The next one that waits for a slot. */
  next: AioRequest | null = null;

  /** Whether its SQE may follow one that is linked to it. */
  get continuesChain(): boolean {
    return false;
  }

  /** Whether its fd is closed by a request, so that the device hears of it. */
  get tellsClosing(): boolean {
    return false;
  }

  /** Whether the next request added is linked to it. */
  get links(): boolean {
    return false;
  }

  /** It is not started yet, but some time later. */
  wait(): void {}

  /**
   * Fills in the zeroed SQE at this index, all but the user data. May be called more than once, and
   * calls nothing that uses the context.
   */
  abstract prepare(sqes: Int32Array, at: number): void;

  /**
   * A completion has come. It may add the request again.
   *
   * @param result what the CQE says: a count or -errno
   * @param flags those of the CQE; with `CqeFlag.more` further completions follow
   */
  abstract complete(result: number, flags: number): void;

  /** What has to stay in memory for as long as the kernel may work on the request. */
  abstract get held(): unknown;

  /**
   * The context is disposed: nobody is going to call `complete`.
   *
   * @param result how it ended all the same, -ECANCELED where it was never begun; null where the
   *   kernel is still working on it
   */
  abstract abandon(result: number | null): void;
}

/** Carries requests out and reports to the queue: the ring, or what stands in for it. */
export interface RequestDevice {
  /** Many requests take few system calls. */
  readonly batches: boolean;

  /**
   * Makes memory known, which nobody may detach, for requests that name it by its number.
   *
   * @param address where it begins
   * @returns its number; -1 where the device knows no such memory
   */
  registerBuffer(address: number, byteLength: number): number;

  /**
   * Takes a request that has a slot.
   *
   * @throws {AioError} when it cannot be had; nothing has changed then
   */
  start(request: AioRequest): void;

  /** The fd is about to be closed. */
  forget(fd: number): void;

  /** Stops watching an fd that is still watched; false where requests wait for it. */
  release(fd: number): boolean;

  /** Asks for a request in flight to end soon; it completes all the same. */
  cancel(request: AioRequest): void;

  /**
   * Cancels what is in flight and waits for it to end, for as long as that takes a kernel.
   *
   * @param requests those in flight
   */
  quiesce(requests: readonly AioRequest[]): void;

  /** Gives everything back to the system. */
  dispose(): void;
}
