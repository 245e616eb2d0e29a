/**
 * What does one iteration of the loop cost by itself? Run by `deno task bench`.
 *
 * No other thread takes part: the device's requests are posted by the bench itself, so what is
 * measured is the loop's own code and, where it waits, the system call.
 */
import { AioContext, EventNotifier, type FdmonName, PollWord } from "../mod.ts";

const IDLE_HANDLERS = 3200;
const TIMERS = 100_000;

/** A device whose guest is the bench. */
class Device {
  readonly ctx: AioContext;
  readonly #notifier = new EventNotifier();
  readonly #posted = new Int32Array(new SharedArrayBuffer(4));
  readonly #word = new PollWord(this.#posted.buffer, 0, 32);
  #handled = 0;
  #quiet = false;

  constructor(fdmon: FdmonName, poll: "function" | "word", maxNs: number) {
    this.ctx = new AioContext({ fdmon, pollParams: { maxNs, idleNs: Infinity } });
    this.ctx.setFdHandler(this.#notifier.fd, {
      ioRead: () => (this.#notifier.testAndClear(), this.#handle()),
      ioPoll: poll === "word" ? this.#word : () => this.#posted[0] !== this.#handled,
      ioPollReady: () => this.#handle(),
      ioPollBegin: () => this.#quiet = true,
      ioPollEnd: () => this.#quiet = false,
    });
  }

  /** Posts a request and runs an iteration, which handles it. */
  request(): void {
    this.#posted[0]++;
    if (!this.#quiet) this.#notifier.set();
    this.ctx.poll(true);
  }

  #handle(): void {
    this.#word.seen = this.#handled = this.#posted[0];
  }
}

/** A context with idle handlers that are only watched. */
function idleContext(fdmon: FdmonName): AioContext {
  const ctx = new AioContext({ fdmon });
  for (let index = 0; index < IDLE_HANDLERS; index++) {
    const notifier = new EventNotifier();
    ctx.setFdHandler(notifier.fd, { ioRead: () => notifier.testAndClear() });
  }
  ctx.poll(false);
  return ctx;
}

for (const poll of ["word", "function"] as const) {
  const device = new Device("io_uring", poll, 32_768);
  Deno.bench(`a request found by polling a ${poll}`, { group: "request" }, () => device.request());
}

for (const fdmon of ["io_uring", "epoll", "poll"] as const) {
  const device = new Device(fdmon, "word", 0);
  Deno.bench(`a request through the fd, ${fdmon}`, { group: "request" }, () => device.request());
}

for (const fdmon of ["io_uring", "epoll", "poll"] as const) {
  const ctx = idleContext(fdmon);
  Deno.bench(`poll(false), nothing to do, 3,200 handlers, ${fdmon}`, { group: "idle" }, () => {
    ctx.poll(false);
  });
}

const ctx = new AioContext();
const half = ctx.bottomHalf(() => {});
Deno.bench("a bottom half, scheduled and run", { group: "callbacks" }, () => {
  half.schedule();
  ctx.poll(false);
});

const busy = new AioContext();
for (let index = 0; index < TIMERS; index++) busy.timer(() => {}).arm(busy.now() + 1e12 + index);
const timer = busy.timer(() => {});
Deno.bench("a timer armed and fired among 100,000", { group: "callbacks" }, () => {
  timer.arm(1);
  busy.poll(false);
});

const changing = idleContext("io_uring");
const changed = new EventNotifier();
Deno.bench("setFdHandler, add and delete beside 3,200, io_uring", { group: "handlers" }, () => {
  changing.setFdHandler(changed.fd, { ioRead: () => changed.testAndClear() });
  changing.setFdHandler(changed.fd, null);
});
