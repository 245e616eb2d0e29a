/**
 * Random calls of the API for requests, for tests/random_caller.ts: with arguments of all sorts, on
 * files, listeners and sockets open and closed, while contexts come and go.
 *
 * Reading, sending and closing is only done to what was made here.
 */
import * as api from "../mod.ts";
import { anyValue, mostly, type Random } from "./random_values.ts";

// deno-lint-ignore no-explicit-any
type Untyped = any;

/** What the calls need of the program. */
export interface Caller {
  readonly random: Random;
  /** fds that may be read from. */
  readonly pool: readonly number[];
  context(): Untyped;
  callback(answer?: () => unknown): Untyped;
  /** Receives what promises are rejected with. */
  judge(error: unknown): void;
}

const OBJECTS_MAX = 8;
const POLL_BITS = [0, 1, 4, 5, 8, 0x2001];

/** Weighted calls, and what gives everything back in the end. */
export function requestCalls({ random, pool, context, callback, judge }: Caller) {
  const added: Untyped[] = [], files: Untyped[] = [], listeners: Untyped[] = [];
  const sockets: Untyped[] = [], buffers: Untyped[] = [new Uint8Array(32)], owned: Untyped[] = [];
  const path = Deno.makeTempFileSync();
  Deno.writeTextFileSync(path, "random".repeat(1000));
  let names = 0;

  function keep(list: Untyped[], value: Untyped): Untyped {
    if (list.length < OBJECTS_MAX) return void list.push(value);
    return list.splice(random.below(OBJECTS_MAX), 1, value)[0];
  }
  /** What a promise brings is kept, and what it is rejected with judged. */
  function later(promise: Untyped, list?: Untyped[]): void {
    Promise.resolve(promise).then((value) => {
      if (list !== undefined) later(keep(list, value)?.close());
    }, judge);
  }
  const buffer = () => mostly(random, () => random.pick(buffers), 8) as Untyped;
  const offset = () => mostly(random, () => random.below(7000)) as Untyped;
  const options = () =>
    mostly(
      random,
      () => random.once(4) ? { signal: AbortSignal.timeout(1) } : undefined,
    ) as Untyped;
  const fd = () => mostly(random, () => random.pick(pool)) as Untyped;

  function prepare(): Untyped {
    const operations: ((sqe: Untyped) => unknown)[] = [
      (sqe) => sqe.nop(),
      (sqe) => sqe.read(fd(), buffer(), mostly(random, () => -1)),
      (sqe) => sqe.recv(fd(), buffer(), mostly(random, () => 0)),
      (sqe) => sqe.pollAdd(fd(), mostly(random, () => random.pick(POLL_BITS))),
      (sqe) => sqe.fsync(fd(), anyValue(random)),
      (sqe) => sqe.fadvise(fd(), offset(), offset(), mostly(random, () => 0)),
      (sqe) => sqe.fallocate(fd(), mostly(random, () => 0), offset(), offset()),
      (sqe) => sqe.accept(fd()),
      (sqe) => sqe.ftruncate(fd(), offset()),
      () => {},
    ];
    const flags = ["link", "hardlink", "drain", "async"];
    const inside = callback();
    return (sqe: Untyped) => {
      if (random.once(30)) inside();
      random.pick(operations)(sqe);
      if (random.once(4)) sqe[random.pick(flags)]();
    };
  }

  const view = () => mostly(random, () => [buffer(), buffer()]) as Untyped;
  const fileCalls: ((file: Untyped) => unknown)[] = [
    (file) => file.read(buffer(), offset(), options()),
    (file) => file.write(buffer(), offset(), options()),
    (file) => file.readv(view(), offset(), options()),
    (file) => file.writev(view(), offset(), options()),
    (file) => file.fsync(options()),
    (file) => file.stat(options()),
    (file) => file.truncate(offset()),
    (file) => file.fallocate(mostly(random, () => "allocate"), offset(), offset()),
    (file) => random.once(4) && file.close(),
  ];
  const socketCalls: ((socket: Untyped) => unknown)[] = [
    (socket) => socket.recv(buffer(), options()),
    (socket) => socket.send(buffer(), options()),
    (socket) => socket.sendAll(buffer(), options()),
    (socket) => socket.readv(view(), options()),
    (socket) => socket.writev(view(), options()),
    (socket) => socket.sendMessage(view(), mostly(random, () => [fd()]) as Untyped),
    (socket) => socket.shutdown(mostly(random, () => "both")),
    (socket) => random.once(3) && socket.close(),
  ];
  const on = (list: Untyped[], calls: ((object: Untyped) => unknown)[]) => {
    if (list.length !== 0) later(random.pick(calls)(random.pick(list)));
  };

  const calls: readonly (readonly [weight: number, call: () => unknown])[] = [
    [
      20,
      () => keep(added, context().addSqe(mostly(random, prepare, 12), mostly(random, callback))),
    ],
    [8, () => random.pick(added)?.cancel()],
    [4, () => random.pick(added)?.inFlight],
    [6, () => {
      const length = mostly(random, () => 1 + random.below(9000)) as number;
      // More would only be slow.
      if (typeof length === "number" && length > 1e6) return;
      keep(buffers, context().buffers.allocate(length, anyValue(random)));
    }],
    [6, () => later(context().openFile(mostly(random, () => path), anyValue(random)), files)],
    [3, () => later(context().openFile(path, { read: true, write: true }), files)],
    [20, () => on(files, fileCalls)],
    [2, () => {
      const at = mostly(
        random,
        () => ({ path: `\0aio_random_${Deno.pid}_${names++}` }),
        6,
      ) as Untyped;
      // An fd could be Deno's own.
      if (typeof at === "object" && at !== null && "fd" in at) return;
      later(keep(listeners, context().listen(at))?.close());
    }],
    [6, () => {
      const listener = random.pick(listeners);
      if (listener === undefined) return;
      later(listener.accept(options()), sockets);
      later(context().connect(listener.address, options()), sockets);
    }],
    [20, () => on(sockets, socketCalls)],
    [1, () => later(context().run(mostly(random, callback), options()))],
    [2, () => context()[random.pick(["attach", "detach", "detach", "ref", "unref"])]()],
    [2, () => keep(owned, new api.TimerFd(anyValue(random) as Untyped))?.[Symbol.dispose]()],
    [
      2,
      () =>
        keep(
          owned,
          new api.MemFd(mostly(random, () => "random") as Untyped, anyValue(random) as Untyped),
        )
          ?.[Symbol.dispose](),
    ],
  ];

  async function dispose(): Promise<void> {
    for (const object of owned) object[Symbol.dispose]();
    const open = [...files, ...listeners, ...sockets];
    await Promise.all(open.map((object) => object.close().catch(judge)));
    Deno.removeSync(path);
  }
  return { calls, dispose };
}
