/**
 * A world of devices, bottom halves and timers driven at random, and the plain model that says what
 * the loop may and must do with them.
 *
 * Every callback checks itself against the model and may then do anything a user could do in it,
 * nested polls and exceptions included. What is found wrong is kept in `failure`, as an assertion
 * inside a callback would be just one more error that the loop collects.
 */
import {
  type AioContext,
  type BottomHalf,
  EventNotifier,
  ManualClock,
  PollWord,
  type Timer,
} from "../mod.ts";
import type { MakeContext } from "./each_fdmon.ts";

const DEVICES = 24, HALVES = 8, TIMERS = 8;
const NESTED_MAX = 3;
const IDLE_NS = 20_000;
/** Iterations within which whatever is ready must have been served. */
const SERVED_WITHIN = 40;

/** Numbers in a sequence that the seed decides. */
export class RandomNumbers {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** A whole number from 0 to `limit` - 1. */
  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit;
  }

  /** True once in `times`. */
  once(times: number): boolean {
    return this.below(times) === 0;
  }
}

/** One registration of a device's callbacks. */
interface Registration {
  alive: boolean;
  /** Has had its ioPollBegin and not yet its ioPollEnd. */
  begun: boolean;
  readonly external: boolean;
}

/** A device whose guest kicks unless it has been told not to. */
class ModelDevice {
  notifier = new EventNotifier();
  registration: Registration | null = null;
  handled = 0;
  readonly posted = new Int32Array(new SharedArrayBuffer(4));

  get pending(): number {
    return this.posted[0] - this.handled;
  }
}

interface ModelHalf {
  readonly half: BottomHalf;
  /** Order of scheduling; 0: not scheduled. */
  sequence: number;
  idle: boolean;
}

interface ModelTimer {
  readonly timer: Timer;
  /** Infinity: not armed. */
  deadlineNs: number;
}

/** The world. */
export class RandomWorld {
  /** What went wrong first. */
  failure: string | null = null;
  /** Callbacks that ran. */
  callbacks = 0;
  readonly ctx: AioContext;
  readonly #random: RandomNumbers;
  readonly #clock = new ManualClock();
  readonly #devices = Array.from({ length: DEVICES }, () => new ModelDevice());
  readonly #halves: ModelHalf[] = [];
  readonly #timers: ModelTimer[] = [];
  /** Errors thrown by callbacks that have not come out of a call yet. */
  readonly #thrown = new Set<unknown>();
  #sequence = 0;
  #disabled = 0;
  #depth = 0;
  /** Callbacks only do their work. */
  #quiet = false;

  constructor(makeContext: MakeContext, random: RandomNumbers) {
    this.#random = random;
    this.ctx = makeContext({ clock: this.#clock, pollParams: { maxNs: 32_768, idleNs: IDLE_NS } });
    this.ctx.trace.on("poll_remove", () => this.#enterCallback("poll_remove"));
    for (let index = 0; index < HALVES; index++) {
      const half = this.ctx.bottomHalf(() => this.#runHalf(index));
      this.#halves.push({ half, sequence: 0, idle: false });
    }
    for (let index = 0; index < TIMERS; index++) {
      const timer = this.ctx.timer(() => this.#fire(index));
      this.#timers.push({ timer, deadlineNs: Infinity });
    }
  }

  /** One random operation; every now and then all that is ready has to be served. */
  step(): void {
    this.#act();
    if (this.#random.once(8)) this.#settle();
    if (this.#random.once(4)) this.#compareStats();
  }

  /** Ends the world; everything must have been given back. */
  dispose(): void {
    this.#quiet = true;
    this.#attempt(() => this.ctx[Symbol.dispose]());
    for (const device of this.#devices) {
      if (device.registration?.begun) this.#fail("ioPollEnd is missing after dispose");
      device.notifier[Symbol.dispose]();
    }
    if (this.#thrown.size !== 0) this.#fail(`${this.#thrown.size} errors were lost`);
  }

  #fail(what: string): void {
    this.failure ??= what;
  }

  /** Makes a call and takes the errors of callbacks that come out of it. */
  #attempt(call: () => void): void {
    try {
      call();
    } catch (error) {
      const errors = error instanceof AggregateError ? error.errors : [error];
      for (const one of errors) {
        if (!this.#thrown.delete(one)) this.#fail(`unexpected error: ${Deno.inspect(one)}`);
      }
    }
  }

  /** What a callback does beside its work: anything, and perhaps it throws. */
  #enterCallback(name: string): void {
    this.callbacks++;
    if (this.#quiet) return;
    while (this.#random.once(6)) this.#act();
    if (!this.#random.once(40)) return;
    const error = new Error(name);
    this.#thrown.add(error);
    throw error;
  }

  #act(): void {
    const random = this.#random;
    const device = this.#devices[random.below(DEVICES)];
    switch (random.below(16)) {
      case 0:
      case 1:
        return this.#register(device);
      case 2:
        return this.#unregister(device);
      case 3:
        this.#unregister(device);
        // The number is free and is given to somebody new at once.
        device.notifier[Symbol.dispose]();
        device.notifier = new EventNotifier();
        device.handled = device.posted[0];
        return;
      case 4:
      case 5:
      case 6:
        return this.#post(device);
      case 7:
        return this.#changeHalf(this.#halves[random.below(HALVES)]);
      case 8:
        return this.#changeTimer(this.#timers[random.below(TIMERS)]);
      case 9:
        return this.#changeExternal();
      case 10:
        if (random.once(8)) this.#changeParams();
        return;
      case 11:
        return this.#clock.advance(random.below(2 * IDLE_NS));
      default:
        return this.#poll();
    }
  }

  #poll(): void {
    if (this.#depth === NESTED_MAX) return;
    this.#depth++;
    // A blocking poll must have something to find, if only a notification.
    const blocking = this.#random.once(4);
    if (blocking) this.ctx.notify();
    this.#attempt(() => this.ctx.poll(blocking && this.#depth === 1));
    this.#depth--;
  }

  #post(device: ModelDevice): void {
    device.posted[0]++;
    if (device.registration?.begun !== true) device.notifier.set();
  }

  #register(device: ModelDevice): void {
    const old = device.registration;
    const kind = this.#random.below(3);
    const registration = { alive: true, begun: false, external: this.#random.once(4) };
    const word = new PollWord(device.posted.buffer, 0, 32);
    word.seen = device.handled;
    if (old !== null) old.alive = false;
    device.registration = registration;
    const handle = (name: string) => {
      this.#check(registration, name);
      word.seen = device.handled = device.posted[0];
      this.#enterCallback(name);
    };
    const ioPoll = () => {
      this.#check(registration, "ioPoll");
      return device.pending > 0;
    };
    const polled = {
      ioPoll: kind === 1 ? ioPoll : word,
      ioPollReady: () => handle("ioPollReady"),
      ioPollBegin: () => {
        if (registration.begun) this.#fail("ioPollBegin twice");
        this.#check(registration, "ioPollBegin");
        registration.begun = true;
        this.#enterCallback("ioPollBegin");
      },
      ioPollEnd: () => {
        if (!registration.begun) this.#fail("ioPollEnd without ioPollBegin");
        registration.begun = false;
        // Nobody polls for a deleted handler any more, so its device kicks itself.
        if (!registration.alive && device.pending > 0) device.notifier.set();
        this.#enterCallback("ioPollEnd");
      },
    };
    const ioRead = () => {
      device.notifier.testAndClear();
      handle("ioRead");
    };
    const callbacks = { ioRead, isExternal: registration.external, ...(kind === 0 ? {} : polled) };
    this.#attempt(() => this.ctx.setFdHandler(device.notifier.fd, callbacks));
    if (device.pending > 0 && device.registration === registration) device.notifier.set();
  }

  #unregister(device: ModelDevice): void {
    if (device.registration !== null) device.registration.alive = false;
    device.registration = null;
    this.#attempt(() => this.ctx.setFdHandler(device.notifier.fd, null));
    // Its ioPollEnd may have set the device up anew; then that is undone as well.
    if (device.registration !== null) this.#unregister(device);
  }

  #check(registration: Registration, name: string): void {
    if (!registration.alive) this.#fail(`${name} of a deleted handler`);
    if (registration.external && this.#disabled > 0) this.#fail(`${name} of a disabled handler`);
  }

  #changeHalf(model: ModelHalf): void {
    const { half } = model;
    const idle = this.#random.once(3);
    if (this.#random.once(4)) {
      half.cancel();
      model.sequence = 0;
    } else {
      if (idle) half.scheduleIdle();
      else half.schedule();
      if (model.sequence !== 0 && (idle || !model.idle)) return;
      model.sequence = ++this.#sequence;
      model.idle = idle;
    }
  }

  #runHalf(index: number): void {
    const model = this.#halves[index];
    if (model.sequence === 0) this.#fail("a bottom half ran that was not scheduled");
    for (const { sequence } of this.#halves) {
      if (sequence !== 0 && sequence < model.sequence) this.#fail("bottom halves out of order");
    }
    model.sequence = 0;
    this.#enterCallback("bottom half");
  }

  #changeTimer(model: ModelTimer): void {
    if (this.#random.once(4)) {
      model.timer.cancel();
      model.deadlineNs = Infinity;
    } else {
      model.deadlineNs = this.ctx.now() + this.#random.below(30_000);
      model.timer.arm(model.deadlineNs);
    }
  }

  #fire(index: number): void {
    const model = this.#timers[index];
    if (!(model.deadlineNs <= this.#clock.now())) this.#fail("a timer fired early or unarmed");
    model.deadlineNs = Infinity;
    this.#enterCallback("timer");
  }

  #changeExternal(): void {
    if (this.#disabled > 0 && !this.#random.once(3)) {
      this.#disabled--;
      this.#attempt(() => this.ctx.enableExternal());
    } else if (this.#disabled < 3) {
      this.#disabled++;
      this.#attempt(() => this.ctx.disableExternal());
    }
  }

  #changeParams(): void {
    this.ctx.setPollParams({
      maxNs: this.#random.once(3) ? 0 : 32_768,
      weight: this.#random.once(2) ? 0 : 3,
      idleNs: this.#random.once(4) ? Infinity : IDLE_NS,
    });
  }

  /** Without anything new, all that is ready is served within a few iterations. */
  #settle(): void {
    this.#quiet = true;
    this.#clock.advance(30_000);
    for (let poll = 0; poll < SERVED_WITHIN; poll++) this.#attempt(() => this.ctx.poll(false));
    this.#quiet = false;
    for (const { registration, pending } of this.#devices) {
      if (registration === null || pending === 0) continue;
      if (!registration.external || this.#disabled === 0) this.#fail("an event was not served");
    }
    const now = this.#clock.now();
    if (this.#timers.some(({ deadlineNs }) => deadlineNs < now)) this.#fail("a timer did not fire");
    if (this.#halves.some(({ sequence }) => sequence !== 0)) {
      this.#fail("a bottom half did not run");
    }
    if (this.#thrown.size !== 0) this.#fail(`${this.#thrown.size} errors did not come out`);
  }

  #compareStats(): void {
    const { handlers, timers, bottomHalves, deleted } = this.ctx.stats();
    const found = { handlers, timers, bottomHalves, deleted };
    const expected = {
      handlers: this.#devices.filter(({ registration }) => registration !== null).length,
      timers: this.#timers.filter(({ deadlineNs }) => deadlineNs !== Infinity).length,
      bottomHalves: this.#halves.filter(({ sequence }) => sequence !== 0).length,
      deleted: 0,
    };
    if (JSON.stringify(found) !== JSON.stringify(expected)) {
      this.#fail(`stats() ${JSON.stringify(found)} is not ${JSON.stringify(expected)}`);
    }
  }
}
