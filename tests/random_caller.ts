/**
 * A program that calls the whole public API at random, with arguments of all sorts, on contexts
 * alive and disposed, from inside callbacks too. It ends with code 0 when nothing was wrong.
 *
 * Wrong is: an error that is none of the project's kinds, one that shows an inner fault, fds or
 * mappings left at the end; whoever runs it sees crashes and hangs. A blocking poll is only called
 * with a notify pending or a timer armed. Only fds made here are ever written to or closed.
 *
 * Arguments: seed, calls, and `requests` where those are among the calls, each turn of which takes time.
 */
import * as api from "../mod.ts";
import { libc, makePair } from "./libc.ts";
import { FDMONS } from "./each_fdmon.ts";
import { openFiles, ringMappings } from "./open_files.ts";
import { requestCalls } from "./random_requests.ts";
import { anyValue, mostly, Random } from "./random_values.ts";
import { NAMES } from "./trace_recording.ts";

// deno-lint-ignore no-explicit-any
type Untyped = any;

const CONTEXTS_MAX = 4, OBJECTS_MAX = 12, DEPTH_MAX = 2;
/** Calls between two turns of Deno's loop. */
const CALLS_A_TURN = 200;
const EFD_NONBLOCK = 0o4000;
/** What callbacks throw that is no Error. */
const THROWN: readonly unknown[] = [null, undefined, "thrown by a callback", 7n];
/** Messages that no caller should ever see: they are of our own faults. */
const INNER =
  /assertion failed|^Cannot (read|set) properties|^(?!Cannot ).*is not (a function|iterable)|mix BigInt|call stack/;

// A name that is made up may become a file or a socket here.
const folder = Deno.makeTempDirSync({ prefix: "aio_test_" });
Deno.chdir(folder);
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

const [seed, calls] = Deno.args.map(Number);
const [, , withRequests] = Deno.args;
const random = new Random(seed);
const files = openFiles(), mappings = ringMappings();

const pool = [
  ...makePair("pipe"),
  ...makePair("socket"),
  ...Array.from({ length: 12 }, (_, index) => libc.eventfd(index % 2, EFD_NONBLOCK)),
];
const contexts: Untyped[] = [];
const notifiers: Untyped[] = [];
const words: Untyped[] = [];
const timers: Untyped[] = [];
const halves: Untyped[] = [];
const remotes: Untyped[] = [];
const stops: Untyped[] = [];
let depth = 0, made = 0;
const outcomes = new Map<string, number>();

/** Keeps an object, in the place of another one where there are many; returns that one. */
function keep(list: Untyped[], value: Untyped, max = OBJECTS_MAX): Untyped {
  if (list.length < max) return void list.push(value);
  return list.splice(random.below(max), 1, value)[0];
}

function fd(): Untyped {
  return mostly(random, () => {
    if (random.once(3) && notifiers.length !== 0) return random.pick(notifiers).fd;
    // Closed ones, those of other contexts and Deno's own are watched, never closed.
    return random.once(4) ? random.below(120) : random.pick(pool);
  }, 12);
}

/** A callback that calls on, throws, or does nothing. */
function callback(answer?: () => unknown): Untyped {
  const plan = random.below(8);
  return () => {
    if (plan === 0) {
      throw random.once(2) ? new Error("thrown by a callback") : random.pick(THROWN);
    }
    if (plan < 4 && depth < DEPTH_MAX && random.once(2)) {
      depth++;
      try {
        callOnce();
      } finally {
        depth--;
      }
    }
    return answer?.();
  };
}

function callbacks(): Untyped {
  if (random.once(4)) return null;
  return mostly(random, () => {
    const made: Untyped = { ioRead: callback() };
    if (random.once(3)) made.ioWrite = callback();
    if (random.once(2)) {
      made.ioPoll = random.once(2) && words.length !== 0
        ? random.pick(words)
        : callback(() => random.once(10));
      made.ioPollReady = callback();
    }
    if (random.once(3)) made.ioPollBegin = callback();
    if (random.once(3)) made.ioPollEnd = callback();
    made.isExternal = random.once(3);
    if (random.once(12)) made[random.pick(Object.keys(made))] = anyValue(random);
    if (random.once(12)) {
      const name = random.pick(Object.keys(made)), value = made[name], get = callback(() => value);
      Object.defineProperty(made, name, { get });
    }
    return random.once(20) ? new Proxy(made, {}) : made;
  }, 12);
}

function clock(): Untyped {
  switch (random.below(4)) {
    case 0:
      return new api.ManualClock(random.below(1e9), 1 + random.below(1000));
    case 1:
      return { now: callback(() => random.once(50) ? anyValue(random) : performance.now() * 1e6) };
    default:
      return undefined;
  }
}

function pollParams(): Untyped {
  const name = random.pick(["maxNs", "grow", "shrink", "idleNs", "other"]);
  return { [name]: mostly(random, () => random.pick([0, 2, 3, 4000, 32_768, 1e6])) };
}

function makeContext(): void {
  if (contexts.length >= CONTEXTS_MAX) {
    const [old] = contexts.splice(random.below(CONTEXTS_MAX), 1);
    keep(disposed, old, CONTEXTS_MAX);
    old[Symbol.dispose]();
  }
  const own = clock();
  const options = { fdmon: random.pick(FDMONS), clock: own };
  const made = new api.AioContext(mostly(random, () => options, 20) as Untyped);
  if (own !== undefined && !(own instanceof api.ManualClock)) unreliable.add(made);
  contexts.push(made);
}
const disposed: Untyped[] = [];
/** Contexts whose clock may jump: a timer armed by it now may be due in years by its next reading. */
const unreliable = new WeakSet<api.AioContext>();

function context(): Untyped {
  return disposed.length !== 0 && random.once(12) ? random.pick(disposed) : random.pick(contexts);
}

function pollWithoutBlocking(): void {
  const blocking = mostly(random, () => false, 40) as unknown;
  context().poll(blocking === true ? false : blocking);
}

function pollBlocking(): void {
  const ctx = random.pick(contexts);
  if (random.once(8) && !unreliable.has(ctx)) {
    const guard = ctx.timer(() => {});
    // A clock of the caller may throw here, so the notify comes where it did.
    const now = random.once(2) ? ctx.now() : NaN;
    if (Number.isFinite(now) && now >= 0 && now < 1e18) {
      guard.arm(now + 20_000);
      try {
        ctx.poll(true);
      } finally {
        guard.cancel();
      }
      return;
    }
  }
  ctx.notify();
  ctx.poll(true);
}

function getEverything(): void {
  const object = random.pick<Untyped>([
    context(),
    context().trace,
    ...[notifiers, words, timers, halves].map((list) => random.pick(list) ?? context()),
  ]);
  for (const name of Reflect.ownKeys(Object.getPrototypeOf(object))) {
    const { get, set } = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(object), name)!;
    // One that only gets refuses to be set; the others may refuse the value.
    if (get !== undefined && (set !== undefined || random.once(4))) {
      attempt(() => {
        object[name] = mostly(random, () => random.below(70_000));
      });
    }
    if (get !== undefined) attempt(() => object[name]);
  }
}

function forgedRemote(): Untyped {
  // The words tell the same fd, one of ours, so this is as good as a real one.
  const fd = pool[pool.length - 1 - random.below(12)];
  const words = new Int32Array(new SharedArrayBuffer(16));
  words.set([random.below(2), random.below(2), 0, fd]);
  return { words, fd };
}

const CALLS: readonly (readonly [weight: number, call: () => unknown])[] = [
  [60, () => context().setFdHandler(fd(), callbacks())],
  [40, pollWithoutBlocking],
  [30, pollBlocking],
  [20, () => context().notify()],
  [4, makeContext],
  [1, () => random.once(20) && random.pick(contexts)[Symbol.dispose]()],
  [8, () => keep(halves, context().bottomHalf(mostly(random, callback), anyValue(random)))],
  [8, () => context().scheduleOneshot(mostly(random, callback))],
  [
    20,
    () => random.pick(halves)?.[random.pick(["schedule", "scheduleIdle", "cancel", "delete"])](),
  ],
  [6, () => keep(timers, context().timer(mostly(random, callback)))],
  [
    12,
    () =>
      random.pick(timers)?.arm(mostly(random, () => Number(context().now()) + random.below(2e5))),
  ],
  [6, () => random.pick(timers)?.cancel()],
  [6, () => context().disableExternal()],
  [8, () => context().enableExternal()],
  [8, () => context().setPollParams(mostly(random, pollParams))],
  [4, () => Number.isNaN(context().stats().polls) && fault("stats")],
  [4, () => context().now()],
  [2, getEverything],
  [2, () => keep(remotes, context().remote())],
  [10, () => api.wakeContext(mostly(random, () => random.pick(remotes) ?? {}))],
  [2, () => api.wakeContext(random.once(3) ? anyValue(random) : forgedRemote())],
  [2, () => {
    const remote = random.pick(remotes) ?? {};
    return api.wakeContext({ ...remote, [random.pick(["fd", "words"])]: anyValue(random) });
  }],
  [4, () => keep(notifiers, new api.EventNotifier())?.[Symbol.dispose]()],
  [12, () => random.pick(notifiers)?.set()],
  [8, () => random.pick(notifiers)?.testAndClear()],
  [1, () => random.once(4) && random.pick(notifiers)?.[Symbol.dispose]()],
  [6, () => {
    const buffer = mostly(random, () => new SharedArrayBuffer(64), 3);
    const offset = mostly(random, () => random.below(9) * 4);
    const bits = mostly(random, () => random.pick([16, 32, 64]));
    keep(words, new api.PollWord(buffer, offset, bits as 32));
  }],
  [8, () => {
    const word = random.pick(words);
    if (word !== undefined) word.seen = mostly(random, () => random.once(2) ? 0 : word.load());
  }],
  [4, () => {
    const name = mostly(random, () => random.pick(NAMES));
    keep(stops, context().trace.on(name, mostly(random, callback)));
  }],
  [6, () => random.pick(stops)?.()],
  [2, () => context().trace.emit(anyValue(random), anyValue(random))],
  [2, () => context().trace.wants(anyValue(random))],
  [1, () => new api.AioContext(anyValue(random) as Untyped)[Symbol.dispose]()],
  [1, () => new api.AioError(anyValue(random) as string, "poll", anyValue(random) as number)],
  [2, () => new api.ManualClock(anyValue(random) as number, anyValue(random) as number).now()],
  [2, () => new api.ManualClock().advance(anyValue(random) as number)],
  [1, () => structuredClone(context())],
];
const requests = withRequests === undefined
  ? null
  : requestCalls({ random, pool, context, callback, judge });
const TABLE = [...CALLS, ...(requests?.calls ?? [])].flatMap(([weight, call]) =>
  Array(weight).fill(call)
);

function fault(what: string): never {
  console.log(`FAULT after ${made} calls, seed ${seed}: ${what}`);
  Deno.exit(1);
}

/** Checks what came out of a call. */
function judge(error: unknown): void {
  if (THROWN.includes(error)) return;
  if (!(error instanceof Error)) fault(`no Error: ${Deno.inspect(error)}`);
  if (error.message.startsWith("thrown by a ")) return;
  if (error instanceof AggregateError) return error.errors.forEach(judge);
  const own = error instanceof TypeError || error instanceof RangeError ||
    error instanceof api.AioError || error instanceof DOMException;
  if (!own || INNER.test(error.message)) fault(error.stack ?? error.message);
  const name = error instanceof api.AioError ? `AioError ${error.code}` : error.name;
  outcomes.set(name, (outcomes.get(name) ?? 0) + 1);
}

function attempt(call: () => unknown): void {
  made++;
  try {
    call();
  } catch (error) {
    judge(error);
  }
}

function callOnce(): void {
  attempt(random.pick(TABLE));
}

for (const fdmon of FDMONS) attempt(() => contexts.push(new api.AioContext({ fdmon })));
// What callbacks of attached contexts throw is uncaught.
globalThis.addEventListener("error", (event) => {
  event.preventDefault();
  judge(event.error);
});
for (let turn = 0; made < calls;) {
  if (contexts.length === 0) attempt(makeContext);
  else callOnce();
  // Promises settle, and attached contexts have a turn.
  if (requests !== null && ++turn % CALLS_A_TURN === 0) {
    await new Promise((resolve) => setImmediate(resolve));
  }
}
depth = DEPTH_MAX;
const stats = contexts.map((ctx) => `${ctx.fdmon.name} ${ctx.stats().handlers}`);
for (const ctx of [...contexts, ...disposed]) attempt(() => ctx[Symbol.dispose]());
await requests?.dispose();
for (const notifier of notifiers) attempt(() => notifier[Symbol.dispose]());
for (const fd of pool) libc.close(fd);
const left = openFiles().filter((file) => !files.includes(file));
if (left.length !== 0) fault(`left open: ${left.join(", ")}`);
if (ringMappings() !== mappings) fault("mappings are left");
console.log(JSON.stringify({ seed, made, stats, outcomes: Object.fromEntries(outcomes) }));
