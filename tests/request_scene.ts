/**
 * A context whose requests this thread answers, for tests of polling for them.
 *
 * Time stands still but for readings and where a test moves it: what passes while the loop polls
 * happens at a reading, what passes while it sleeps just before the sleep.
 */
import { assertEquals } from "@std/assert";
import type { AioContext, AioContextOptions } from "../mod.ts";
import type { MakeContext } from "./each_fdmon.ts";
import { libc, makePair } from "./libc.ts";

/** Poll parameter of the scene, where not given. */
export const MAX_NS = 32_768;
/** Waits before the first look, that one included. */
export const FIRST_LOOK = 8;
/** By which a reading moves the clock. */
export const READING_NS = 10;

/** A context whose requests are answered by this thread, at times of its choice. */
export class RequestScene implements Disposable {
  readonly ctx: AioContext;
  /** Called at each reading of the clock while the ring is polled for requests. */
  whilePolled: (() => void) | null = null;
  /** Called before the loop may sleep. */
  beforeSleep: (() => void) | null = null;
  completed = 0;
  /** Spins, and the longest time one was to take. */
  spins = 0;
  longestNs = 0;
  nowNs = 1e9;
  #polling = false;
  readonly #near: number;
  readonly #far: number;
  readonly #memory: Uint8Array;

  constructor(makeContext: MakeContext, pollParams: AioContextOptions["pollParams"] = {}) {
    [this.#near, this.#far] = makePair("socket");
    const clock = {
      now: () => {
        if (this.#polling) this.whilePolled?.();
        return this.nowNs += READING_NS;
      },
    };
    pollParams = { maxNs: MAX_NS, idleNs: Infinity, ...pollParams };
    this.ctx = makeContext({ clock, pollParams });
    this.#memory = this.ctx.buffers.allocate(1);
    const { trace } = this.ctx;
    trace.on("poll_requests_begin", ({ maxNs }) => {
      this.spins++;
      this.longestNs = Math.max(this.longestNs, maxNs);
      this.#polling = true;
    });
    trace.on("poll_requests_end", () => this.#polling = false);
    trace.on("wait_begin", ({ timeoutNs }) => {
      if (timeoutNs !== 0) this.beforeSleep?.();
    });
  }

  /** Adds a request that waits for `answer`. */
  receive(): void {
    this.ctx.addSqe((sqe) => sqe.recv(this.#near, this.#memory), (result) => {
      assertEquals(result, 1);
      this.completed++;
    });
  }

  /** Has one request complete. */
  answer(): void {
    assertEquals(Number(libc.write(this.#far, new Uint8Array(1), 1n)), 1);
  }

  /** One request that is answered so long after the loop began to wait, asleep or polling. */
  exchange(afterNs: number): void {
    const { completed, nowNs } = this;
    this.receive();
    let answered = false;
    const answer = () => {
      if (answered) return;
      answered = true;
      this.answer();
    };
    this.whilePolled = () => {
      if (this.nowNs - nowNs >= afterNs) answer();
    };
    this.beforeSleep = () => {
      this.nowNs = Math.max(this.nowNs, nowNs + afterNs);
      answer();
    };
    while (this.completed === completed) this.ctx.poll(true);
    this.whilePolled = this.beforeSleep = null;
  }

  /** So many of them. */
  exchanges(count: number, afterNs: number): void {
    for (let number = 0; number < count; number++) this.exchange(afterNs);
  }

  /** One request that completes as it is submitted. */
  completeAtOnce(): void {
    const { completed } = this;
    this.answer();
    this.receive();
    while (this.completed === completed) this.ctx.poll(true);
  }

  [Symbol.dispose](): void {
    this.ctx[Symbol.dispose]();
    libc.close(this.#near);
    libc.close(this.#far);
  }
}
