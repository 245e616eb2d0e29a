/**
 * Accepts connections from several listeners and hands them on, a bounded number at a time.
 *
 * One that comes when there are enough is accepted and waits without a greeting, and behind it the
 * rest wait in the backlog. Invariant: when `close` settles nobody is accepted any more, and who has
 * waited is closed; those handed on go on.
 */
import type { AioListener, AioSocket } from "../../mod.ts";

/** Accepts connections. */
export class Acceptor {
  readonly #serve: (socket: AioSocket) => Promise<void>;
  readonly #openMax: number;
  readonly #placeWanted: (() => void)[] = [];
  readonly #accepting: Promise<void>[] = [];
  readonly #failed = Promise.withResolvers<never>();
  #open = 0;
  #closing = false;

  /**
   * @param serve takes a connection, and settles when that has ended
   * @param openMax connections at a time; 0 for no limit
   */
  constructor(serve: (socket: AioSocket) => Promise<void>, openMax: number) {
    this.#serve = serve;
    this.#openMax = openMax;
    this.failed.catch(() => {});
  }

  /** Rejects with what keeps connections from being accepted; never resolves. */
  get failed(): Promise<never> {
    return this.#failed.promise;
  }

  /** Accepts from a listener until that is closed. */
  accept(listener: AioListener): void {
    this.#accepting.push(this.#accept(listener).catch(this.#failed.reject));
  }

  /** Ends, once all listeners are closed. */
  async close(): Promise<void> {
    this.#closing = true;
    for (const goOn of this.#placeWanted.splice(0)) goOn();
    await Promise.all(this.#accepting);
  }

  async #accept(listener: AioListener): Promise<void> {
    for await (const socket of listener) {
      while (this.#openMax !== 0 && this.#open >= this.#openMax && !this.#closing) {
        await new Promise<void>((resolve) => this.#placeWanted.push(resolve));
      }
      if (this.#closing) return await socket.close();
      this.#open++;
      this.#serve(socket).catch(this.#failed.reject).finally(() => {
        this.#open--;
        this.#placeWanted.shift()?.();
      });
    }
  }
}
