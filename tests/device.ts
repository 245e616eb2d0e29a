/**
 * A device with its guest in one thread, for tests of poll mode.
 *
 * The guest posts events; it kicks the fd only while the device has notifications on, as a real
 * one would. Every callback is recorded, and the pairing of begin and end is checked all along.
 */
import { assert } from "@std/assert";
import { type AioContext, EventNotifier, PollWord } from "../mod.ts";

/** One queue of one device. */
export class Device implements Disposable {
  readonly notifier: EventNotifier = new EventNotifier();
  /** Callbacks in the order they came: kick, ready, begin, end. */
  readonly calls: string[] = [];
  /** Times ioPoll was asked; words are asked in C and not counted. */
  polls = 0;
  /** Kicks the guest had to make. */
  kicks = 0;
  /** Events handled. */
  handled = 0;
  notificationsOn = true;
  /** Called by ioPoll before it answers: what another thread does meanwhile. */
  whilePolled: (() => void) | null = null;
  /** Called by ioPollReady after it has handled the events. */
  whenReady: (() => void) | null = null;
  /** Called when notifications have been switched on again. */
  whenEnded: (() => void) | null = null;
  readonly #posted = new Int32Array(new SharedArrayBuffer(4));
  readonly #word: PollWord | null;

  /** @param poll how the loop polls it */
  constructor(poll: "function" | "word" = "function") {
    this.#word = poll === "word" ? new PollWord(this.#posted.buffer, 0, 32) : null;
  }

  /** Sets the handler. */
  attach(ctx: AioContext, isExternal = false): void {
    ctx.setFdHandler(this.notifier.fd, {
      ioRead: () => {
        assert(this.notifier.testAndClear());
        this.calls.push("kick");
        this.#handle();
      },
      ioPoll: this.#word ?? (() => {
        this.polls++;
        this.whilePolled?.();
        return this.pending > 0;
      }),
      ioPollReady: () => {
        this.calls.push("ready");
        this.#handle();
        this.whenReady?.();
      },
      ioPollBegin: () => {
        assert(this.notificationsOn, "ioPollBegin without ioPollEnd before it");
        this.notificationsOn = false;
        this.calls.push("begin");
      },
      ioPollEnd: () => {
        assert(!this.notificationsOn, "ioPollEnd without ioPollBegin before it");
        this.notificationsOn = true;
        this.calls.push("end");
        this.whenEnded?.();
      },
      isExternal,
    });
  }

  /** The guest posts an event, with a kick if it has to. */
  post(): void {
    this.postSilently();
    if (!this.notificationsOn) return;
    this.kicks++;
    this.notifier.set();
  }

  /** The guest posts an event and does not kick. */
  postSilently(): void {
    Atomics.add(this.#posted, 0, 1);
  }

  /** Events posted and not handled. */
  get pending(): number {
    return Atomics.load(this.#posted, 0) - this.handled;
  }

  /** How often this callback came. */
  count(call: string): number {
    return this.calls.filter((other) => other === call).length;
  }

  /** Closes the notifier; delete the handler before. */
  [Symbol.dispose](): void {
    this.notifier[Symbol.dispose]();
  }

  #handle(): void {
    this.handled += this.pending;
    if (this.#word !== null) this.#word.seen = this.handled;
  }
}
