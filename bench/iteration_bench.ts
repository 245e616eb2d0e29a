/**
 * What does one iteration of the loop cost by itself? Run by `deno task bench`.
 *
 * No other thread takes part: the device's requests are posted by the bench itself, so what is
 * measured is the loop's own code and, where it waits, the system call. The baseline of what comes
 * through an fd is the same in C without a loop; it is left out where there is no compiler.
 */
import { compileFloor } from "../src/cli/bench_probe.ts";
import { CommandError } from "../src/cli/exit.ts";
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

/** An event in C; null where it cannot be compiled. */
async function openFloor(): Promise<(() => void) | null> {
  let path: string;
  try {
    path = await compileFloor("iteration_floor.so", ["iteration_floor.c"], ["-shared", "-fPIC"]);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    console.error(`no baseline in C: ${error.message}`);
    return null;
  }
  const { symbols } = Deno.dlopen(path, {
    floor_open: { parameters: [], result: "i64" },
    floor_event: { parameters: ["i32", "i32"], result: "i32" },
  });
  const opened = BigInt(symbols.floor_open());
  const epoll = Number(opened >> 32n), fd = Number(opened & 0xffff_ffffn);
  return () => {
    if (symbols.floor_event(epoll, fd) !== 0) throw new Error("Cannot measure the baseline in C");
  };
}

for (const poll of ["word", "function"] as const) {
  const device = new Device("io_uring", poll, 32_768);
  Deno.bench(`a request found by polling a ${poll}`, { group: "request" }, () => device.request());
}

const floor = await openFloor();
if (floor !== null) {
  Deno.bench("an event through an fd in C, no loop", { group: "fd", baseline: true }, floor);
}
for (const fdmon of ["io_uring", "epoll", "poll"] as const) {
  const device = new Device(fdmon, "word", 0);
  Deno.bench(`a request through the fd, ${fdmon}`, { group: "fd" }, () => device.request());
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
