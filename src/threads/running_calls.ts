/** Counts what has been begun for others, so that a thread can end when that is done. */

/** Calls whose functions have begun and returned a promise that is not settled. */
export class RunningCalls {
  #count = 0;
  #idle: PromiseWithResolvers<void> | null = null;

  /** One has begun. */
  begin(): void {
    this.#count++;
  }

  /** One has ended. */
  end(): void {
    if (--this.#count !== 0) return;
    this.#idle?.resolve();
    this.#idle = null;
  }

  /** Settles when there is none. */
  idle(): Promise<void> {
    if (this.#count === 0) return Promise.resolve();
    return (this.#idle ??= Promise.withResolvers<void>()).promise;
  }
}
