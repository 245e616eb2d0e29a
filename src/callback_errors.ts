/**
 * What callbacks throw, kept until the iteration they ran in is over.
 *
 * A callback that throws must not keep others from running, and must not be silent either. Each
 * iteration, nested ones too, collects its own errors and throws them at its end.
 */

/** Errors of one iteration at a time. */
export class CallbackErrors {
  #errors: unknown[] | null = null;
  /** Iterations that have begun and not ended; their timers' callbacks are part of them. */
  #iterations = 0;

  /** Something has been reported that nobody has been told yet. */
  get pending(): boolean {
    return this.#errors !== null;
  }

  /** Keeps an error; bound, as everybody who runs callbacks is given it. */
  readonly report = (error: unknown): void => {
    (this.#errors ??= []).push(error);
  };

  /** Does what must not keep the rest from being done. */
  attempt(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.report(error);
    }
  }

  /** Begins an iteration; returns what the outer one has collected so far, for `end`. */
  begin(): unknown[] | null {
    const outer = this.#errors;
    this.#errors = null;
    this.#iterations++;
    return outer;
  }

  /**
   * Ends an iteration.
   *
   * @param outer what `begin` returned
   * @throws the error of a callback, or an AggregateError of several
   */
  end(outer: unknown[] | null): void {
    this.#iterations--;
    this.#take(outer);
  }

  /**
   * Throws what callbacks have thrown that something other than an iteration called; inside an
   * iteration, that is left to its end.
   */
  throwOutside(): void {
    if (this.#iterations === 0) this.#take(null);
  }

  #take(outer: unknown[] | null): void {
    const errors = this.#errors;
    this.#errors = outer;
    if (errors === null) return;
    if (errors.length === 1) throw errors[0];
    throw new AggregateError(errors, `${errors.length} callbacks failed in one iteration`);
  }
}
