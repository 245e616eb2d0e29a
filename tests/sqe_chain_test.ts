/** Linked and drained requests: their order, what a failure does, and that nothing cuts a chain. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { type AioContext, EventNotifier, type PrepareSqe } from "../mod.ts";
import { Errno } from "../ffi/errno.ts";
import { onIoUring } from "./each_fdmon.ts";
import { libc, makePair } from "./libc.ts";
import { countFds } from "./open_files.ts";
import { pollUntil } from "./poll_until.ts";
import { Random } from "./random_values.ts";

const IN = 1, EBADF = -Errno.EBADF, ECANCELED = -Errno.ECANCELED;
const CHAIN_MAX = 64, SQ_ENTRIES = 256, IN_FLIGHT_MAX = 65_536;
const CLOSED_FD = 1_000_000;
const SEED = Number(Deno.env.get("AIO_CHAIN_SEED") ?? Date.now() % 1e6);

/** Adds a request whose result is put in `results` under a name. */
function add(ctx: AioContext, results: string[], name: string, prepare: PrepareSqe) {
  return ctx.addSqe(prepare, (result) => results.push(`${name} ${result}`));
}

/** Adds requests of which the first fails, so that all others are cancelled if they are linked. */
function addChain(ctx: AioContext, length: number, between: () => void = () => {}): number[] {
  const results: number[] = [];
  const complete = (result: number) => results.push(result);
  for (let index = 0; index < length; index++) {
    const link = index < length - 1;
    ctx.addSqe((sqe) => {
      if (link) sqe.link();
      return index === 0 ? sqe.fsync(CLOSED_FD) : sqe.nop();
    }, complete);
    between();
  }
  return results;
}

function requireChained(results: readonly number[], length: number, what: string): void {
  const expected = [EBADF, ...Array(length - 1).fill(ECANCELED)];
  assertEquals(results, expected, `${what}, AIO_CHAIN_SEED=${SEED}`);
}

onIoUring("addSqe: linked requests run in order, each after the one before", (makeContext) => {
  using ctx = makeContext();
  const [input, output] = makePair("pipe");
  const results: string[] = [];
  const buffer = ctx.buffers.allocate(8);
  add(ctx, results, "poll", (sqe) => sqe.link().pollAdd(input, IN));
  add(ctx, results, "read", (sqe) => sqe.hardlink().read(input, buffer, -1));
  add(ctx, results, "last", (sqe) => sqe.nop());
  add(ctx, results, "apart", (sqe) => sqe.nop());
  pollUntil(ctx, () => results.length !== 0);
  ctx.poll(false);
  assertEquals(results, ["apart 0"]);
  libc.write(output, new Uint8Array([7, 8]), 2n);
  pollUntil(ctx, () => results.length === 4);
  assertEquals(results.slice(1), ["poll 1", "read 2", "last 0"]);
  libc.close(input);
  libc.close(output);
});

onIoUring("addSqe: a failure cancels what is linked, and not what is hard-linked", (
  makeContext,
) => {
  using ctx = makeContext();
  const results: string[] = [];
  add(ctx, results, "a", (sqe) => sqe.fsync(CLOSED_FD).link());
  add(ctx, results, "b", (sqe) => sqe.nop().link());
  add(ctx, results, "c", (sqe) => sqe.nop());
  pollUntil(ctx, () => results.length === 3);
  assertEquals(results.splice(0), [`a ${EBADF}`, `b ${ECANCELED}`, `c ${ECANCELED}`]);
  add(ctx, results, "d", (sqe) => sqe.fsync(CLOSED_FD).hardlink());
  add(ctx, results, "e", (sqe) => sqe.fsync(CLOSED_FD).link());
  add(ctx, results, "f", (sqe) => sqe.nop());
  pollUntil(ctx, () => results.length === 3);
  assertEquals(results, [`d ${EBADF}`, `e ${EBADF}`, `f ${ECANCELED}`]);
});

onIoUring("addSqe: a drained request waits for those before it, and holds those after it", (
  makeContext,
) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  const results: string[] = [];
  add(ctx, results, "poll", (sqe) => sqe.pollAdd(notifier.fd, IN));
  add(ctx, results, "drained", (sqe) => sqe.nop().drain());
  add(ctx, results, "after", (sqe) => sqe.nop());
  ctx.poll(false);
  ctx.poll(false);
  assertEquals(results, []);
  notifier.set();
  pollUntil(ctx, () => results.length === 3);
  assertEquals(results, ["poll 1", "drained 0", "after 0"]);
});

onIoUring("addSqe: a chain may have 64 requests; the 65th is refused", (makeContext) => {
  using ctx = makeContext();
  const results: string[] = [];
  for (let index = 0; index < CHAIN_MAX; index++) {
    add(ctx, results, `${index}`, (sqe) => sqe.link().nop());
  }
  const refused = () => add(ctx, results, "65th", (sqe) => sqe.nop());
  assertThrows(refused, RangeError, "Cannot link more than 64 requests");
  pollUntil(ctx, () => results.length === CHAIN_MAX);
  assertEquals(results, Array.from({ length: CHAIN_MAX }, (_, index) => `${index} 0`));
  add(ctx, results, "next", (sqe) => sqe.nop());
  ctx.poll(true);
  assertEquals(results.at(-1), "next 0");
});

onIoUring("addSqe: a full ring does not cut a chain", (makeContext) => {
  using ctx = makeContext();
  for (let before = 0; before <= SQ_ENTRIES; before += 3) {
    let nops = 0;
    for (let index = 0; index < before; index++) ctx.addSqe((sqe) => sqe.nop(), () => nops++);
    const results = addChain(ctx, CHAIN_MAX);
    pollUntil(ctx, () => results.length === CHAIN_MAX && nops === before);
    requireChained(results, CHAIN_MAX, `behind ${before}`);
  }
});

onIoUring("addSqe: changes of handlers and cancellations do not cut a chain", (makeContext) => {
  const random = new Random(SEED);
  using ctx = makeContext();
  const notifiers = Array.from({ length: 40 }, () => new EventNotifier());
  let cancelled = 0, asked = 0;
  const change = () => {
    const { fd } = random.pick(notifiers);
    if (random.once(3)) ctx.setFdHandler(fd, null);
    else ctx.setFdHandler(fd, { ioRead() {} });
    if (random.once(4)) ctx.poll(false);
  };
  const between = () => {
    const { fd } = random.pick(notifiers);
    ctx.setFdHandler(fd, random.once(2) ? null : { ioRead() {} });
    if (random.once(4)) return;
    asked++;
    waiting.pop()?.cancel();
  };
  const waiting: { cancel(): void }[] = [];
  for (let round = 0; round < 100; round++) {
    for (let index = 0; index < 80; index++) {
      waiting.push(ctx.addSqe((sqe) => sqe.pollAdd(notifiers[0].fd, IN), (result) => {
        assertEquals(result, ECANCELED);
        cancelled++;
      }));
      if (random.once(4)) change();
    }
    const length = 2 + random.below(CHAIN_MAX - 1);
    const results = addChain(ctx, length, between);
    for (const request of waiting.splice(0)) request.cancel();
    pollUntil(ctx, () => results.length === length && cancelled === (round + 1) * 80);
    requireChained(results, length, `round ${round}`);
  }
  assert(asked > 0);
  for (const notifier of notifiers) {
    ctx.setFdHandler(notifier.fd, null);
    notifier[Symbol.dispose]();
  }
});

onIoUring("addSqe: a cancellation is never taken for one of the next request of the slot", (
  makeContext,
) => {
  using ctx = makeContext();
  using notifier = new EventNotifier(), later = new EventNotifier();
  notifier.set();
  for (let round = 0; round < 20; round++) {
    const results: string[] = [];
    later.testAndClear();
    // Both are complete when the first one is dispatched, which cancels the second one.
    ctx.addSqe((sqe) => sqe.pollAdd(notifier.fd, IN), () => {
      if (round % 2 === 0) ctx.addSqe((sqe) => sqe.link().nop(), () => {});
      second.cancel();
    });
    const second = ctx.addSqe((sqe) => sqe.pollAdd(notifier.fd, IN), (result) => {
      results.push(`second ${result}`);
      add(ctx, results, "tail", (sqe) => sqe.pollAdd(later.fd, IN));
    });
    pollUntil(ctx, () => results.length === 1);
    ctx.poll(false);
    ctx.poll(false);
    later.set();
    pollUntil(ctx, () => results.length === 2);
    assertEquals(results, ["second 1", "tail 1"]);
  }
});

onIoUring("addSqe: chains keep together where they have to wait for others to end", (
  makeContext,
) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  let ended = 0;
  const fill = (count: number) => {
    for (let index = 0; index < count; index++) {
      ctx.addSqe((sqe) => sqe.pollAdd(notifier.fd, IN), () => ended++);
    }
  };
  fill(IN_FLIGHT_MAX - 5);
  const across = addChain(ctx, 10);
  // These find no room at all, so they wait; one is cancelled meanwhile.
  fill(1);
  const first = addChain(ctx, 30), second = addChain(ctx, CHAIN_MAX);
  ctx.addSqe((sqe) => sqe.nop(), (result) => assertEquals(result, ECANCELED)).cancel();
  pollUntil(ctx, () => across.length === 10);
  requireChained(across, 10, "across the limit");
  assertEquals([first.length, second.length], [0, 0]);
  notifier.set();
  pollUntil(ctx, () => ended === IN_FLIGHT_MAX - 4 && second.length === CHAIN_MAX);
  requireChained(first, 30, "waiting");
  requireChained(second, CHAIN_MAX, "waiting");
});

onIoUring("dispose: ends a chain each of whose requests would wait for ever", (makeContext) => {
  const fds = countFds();
  const ctx = makeContext();
  const [input, output] = makePair("pipe");
  const buffer = ctx.buffers.allocate(8);
  for (let index = 0; index < CHAIN_MAX; index++) {
    ctx.addSqe((sqe) => sqe.hardlink().read(input, buffer, -1), () => assert(false));
  }
  ctx.poll(false);
  // The time that disposing takes where the kernel does not end a request; the best of none.
  const before = ctx.now();
  ctx[Symbol.dispose]();
  using after = makeContext();
  assert(after.now() - before < 1.9e9, "given up");
  after[Symbol.dispose]();
  libc.write(output, new Uint8Array(8).fill(7), 8n);
  assert(buffer.every((byte) => byte === 0), "written to after the context was disposed");
  libc.close(input);
  libc.close(output);
  assertEquals(countFds(), fds, "open fds");
});
