/**
 * A context in which every kind of callback can be made to do something once.
 *
 * Each place where the loop runs a caller's code has a name. The scene has one device whose handler
 * has all poll callbacks, timers, bottom halves, listeners and a clock of its own; `provoke` runs
 * iterations until the place in question has been come to. Every blocking poll has a timer armed,
 * so a fault that loses an event shows as a failed assertion and not as a hang.
 */
import { assert, assertEquals } from "@std/assert";
import { type AioContext, type AioContextOptions, EventNotifier } from "../mod.ts";
import type { MakeContext } from "./each_fdmon.ts";

/** Where the loop runs a caller's code. */
export const PLACES = [
  "ioRead",
  "ioWrite",
  "ioPoll",
  "ioPollReady",
  "ioPollBegin",
  "ioPollEnd",
  "bottom half",
  "idle bottom half",
  "timer",
  "poll_add listener",
  "run_poll_handlers_begin listener",
  "run_poll_handlers_end listener",
  "iteration_begin listener",
  "iteration_end listener",
  "wait_begin listener",
  "wait_end listener",
  "callback_begin listener",
  "callback_end listener",
  "clock",
  "nested poll",
] as const;

/** Name of such a place. */
export type Place = typeof PLACES[number];

const ROUNDS_MAX = 1000;
const TIMER_NS = 300_000;
// Any wait is short beside it, so the polling time never shrinks to nothing.
const PARAMS = { maxNs: 1e9, idleNs: Infinity };

/** One context with everything in it. */
export class Scene implements Disposable {
  readonly ctx: AioContext;
  /** Done at its place, once. */
  action: (() => void) | null = null;
  /** Places in the order they were come to since the action. */
  readonly after: Place[] = [];
  begun = 0;
  ended = 0;
  #acted = false;
  #posted = false;
  readonly #place: Place;
  readonly #notifier = new EventNotifier();

  constructor(makeContext: MakeContext, place: Place, options: AioContextOptions = {}) {
    this.#place = place;
    const clock = { now: () => (this.#at("clock"), performance.now() * 1e6) };
    this.ctx = makeContext({ clock, pollParams: PARAMS, ...options });
    this.attach();
    const { trace } = this.ctx;
    trace.on("poll_add", () => this.#at("poll_add listener"));
    trace.on("run_poll_handlers_begin", () => this.#at("run_poll_handlers_begin listener"));
    trace.on("run_poll_handlers_end", () => this.#at("run_poll_handlers_end listener"));
    trace.on("iteration_begin", () => this.#at("iteration_begin listener"));
    trace.on("iteration_end", () => this.#at("iteration_end listener"));
    trace.on("wait_begin", () => this.#at("wait_begin listener"));
    trace.on("wait_end", () => this.#at("wait_end listener"));
    trace.on("callback_begin", () => this.#at("callback_begin listener"));
    trace.on("callback_end", () => this.#at("callback_end listener"));
  }

  /** Sets the handler. */
  attach(): void {
    this.ctx.setFdHandler(this.#notifier.fd, {
      ioRead: () => {
        this.#notifier.testAndClear();
        this.#posted = false;
        this.#at("ioRead");
      },
      // Always writable, so only where it is wanted.
      ioWrite: this.#place === "ioWrite" ? () => this.#at("ioWrite") : null,
      ioPoll: () => {
        this.#at("ioPoll");
        return this.#posted;
      },
      ioPollReady: () => {
        this.#posted = false;
        this.#at("ioPollReady");
      },
      ioPollBegin: () => {
        this.begun++;
        this.#at("ioPollBegin");
      },
      ioPollEnd: () => {
        this.ended++;
        this.#at("ioPollEnd");
      },
    });
  }

  /** Runs iterations until the action was done; returns what the one it was done in has thrown. */
  provoke(): { thrown: boolean; value?: unknown } {
    const { ctx } = this;
    for (let round = 0; round < ROUNDS_MAX && this.action !== null; round++) {
      // By turns an fd event, a wait in poll mode, and an event that only polling finds.
      if (round % 3 === 0) this.#notifier.set();
      if (round % 3 === 2) this.#posted = true;
      if (this.#place === "bottom half") ctx.scheduleOneshot(() => this.#at("bottom half"));
      const half = ctx.bottomHalf(() => this.#at("idle bottom half"));
      if (this.#place === "idle bottom half") half.scheduleIdle();
      if (this.#place === "nested poll") {
        ctx.scheduleOneshot(() => {
          ctx.scheduleOneshot(() => this.#at("nested poll"));
          ctx.poll(false);
        });
      }
      const timer = ctx.timer(() => this.#at("timer"));
      timer.arm(performance.now() * 1e6 + TIMER_NS);
      try {
        ctx.poll(true);
      } catch (value) {
        return { thrown: true, value };
      }
      timer.cancel();
    }
    assert(this.action === null, `${this.#place} was not come to`);
    return { thrown: false };
  }

  /** Checks that the context is as good as new. */
  requireWorking(): void {
    const { ctx } = this;
    let reads = 0;
    using notifier = new EventNotifier();
    const ioRead = () => (notifier.testAndClear(), reads++);
    ctx.setFdHandler(notifier.fd, { ioRead, ioPoll: () => false, ioPollReady() {} });
    let halves = 0, timers = 0;
    for (let round = 1; round <= 3; round++) {
      notifier.set();
      ctx.scheduleOneshot(() => halves++);
      ctx.timer(() => timers++).arm(ctx.now());
      const watchdog = ctx.timer(() => assert(false, "an event was lost"));
      watchdog.arm(ctx.now() + 20e9);
      while (reads < round || halves < round || timers < round) ctx.poll(true);
      watchdog.cancel();
    }
    ctx.setFdHandler(notifier.fd, null);
    ctx.setFdHandler(this.#notifier.fd, null);
    ctx.poll(false);
    assertEquals([ctx.stats().handlers, ctx.stats().deleted], [0, 0]);
    assertEquals(this.ended, this.begun, "ioPollEnd for each ioPollBegin");
  }

  #at(place: Place): void {
    if (this.#acted) this.after.push(place);
    const { action } = this;
    if (place !== this.#place || action === null) return;
    this.action = null;
    this.#acted = true;
    action();
  }

  /** Disposes the context and closes the fd. */
  [Symbol.dispose](): void {
    this.ctx[Symbol.dispose]();
    this.#notifier[Symbol.dispose]();
  }
}
