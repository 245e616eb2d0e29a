/** The threads of io_thread_test.ts: functions that end, hang, fail and hold things in every way. */
import "./open_libraries.ts";
import {
  type AioContext,
  AioError,
  EventNotifier,
  type IOThreadScope,
  type Peer,
  type RemoteContext,
} from "../mod.ts";

/** What a thread is given: how it is to begin. */
export interface ThreadData {
  readonly begin?:
    | "throw"
    | "reject"
    | "never"
    | "spin"
    | "exit"
    | "close"
    | "uncaught"
    | "aioError";
  readonly counter?: Int32Array<SharedArrayBuffer>;
  readonly bytes?: Uint8Array;
}

let ended = 0;

function fail(how: string): void {
  switch (how) {
    case "throw":
      throw new RangeError("thrown in the thread");
    case "aioError":
      throw new AioError("Cannot begin", "open", 2);
    case "uncaught":
      queueMicrotask(() => {
        throw new RangeError("uncaught in the thread");
      });
      break;
    case "unhandled":
      void Promise.reject(new RangeError("unhandled in the thread"));
      break;
    case "exit":
      Deno.exit(3);
      break;
    case "close":
      globalThis.close();
      break;
    case "spin":
      for (;;);
  }
}

/** The default function. */
export default async function main({ ctx, name, host }: IOThreadScope, data: ThreadData = {}) {
  if (data.begin === "never") await new Promise(() => {});
  if (data.begin === "reject") await Promise.reject(new RangeError("rejected in the thread"));
  if (data.begin !== undefined) fail(data.begin);
  let peer: Peer<{ add: (one: number) => number }> | null = null;
  const held: unknown[] = [];
  return {
    add: (a: number, b: number) => a + b,
    name: () => name,
    echo: (value: unknown) => value,
    count: () => Atomics.add(data.counter!, 0, 1) + 1,
    bytes: () => data.bytes!,
    never: () => new Promise(() => {}),
    fail,
    failLater: async (how: string) => {
      await new Promise((resolve) => setTimeout(resolve, 1));
      fail(how);
    },
    /** Returns to the loop when it is told. */
    spin: () => {
      while (Atomics.load(data.counter!, 0) === 0);
    },
    /** In the loop of Deno, in place of the context's. */
    fetch: () => host(new Promise<string>((resolve) => setTimeout(() => resolve("fetched"), 3))),
    /** A poll() inside a call. */
    nested: () => {
      for (;;) ctx.poll(true);
    },
    connect: (remote: RemoteContext<{ add: (one: number) => number }>) => {
      peer = ctx.peer(remote);
    },
    callBack: (one: number) => peer!.call("add", one),
    sendBack: async (count: number) => {
      for (let sent = 0; sent < count; sent++) {
        while (!peer!.send("add", 1)) await peer!.drained();
      }
    },
    /** Requests that never end by themselves, and what else a device has. */
    hold: async (path: string) => {
      held.push(...await hold(ctx, path));
      return ctx.stats().requests;
    },
    ownThread: () => Number(Deno.readLinkSync("/proc/thread-self").split("/").at(-1)),
    allowed: () =>
      Deno.readTextFileSync("/proc/thread-self/status").match(/Cpus_allowed_list:\s*(\S+)/)![1],
    pollParams: () => ctx.pollParams,
    backend: () => ctx.fdmon.name,
    [Symbol.asyncDispose]: async () => {
      await Promise.resolve();
      ended++;
      if (data.counter !== undefined) Atomics.store(data.counter, 1, ended);
    },
  };
}

async function hold(ctx: AioContext, path: string): Promise<unknown[]> {
  const notifier = new EventNotifier();
  ctx.setFdHandler(notifier.fd, { ioRead() {} });
  const timer = ctx.timer(() => {});
  timer.arm(ctx.now() + 1e15);
  const listener = ctx.listen({ path: `\0${path}.${Math.random()}` });
  const accepted = listener.accept();
  const client = await ctx.connect(listener.address as { path: string });
  const server = await accepted;
  const bytes = new Uint8Array(64);
  void server.recv(bytes).catch(() => {});
  void client.recv(bytes).catch(() => {});
  void listener.accept().catch(() => {});
  const file = await ctx.openFile(path, { direct: true });
  const buffer = ctx.buffers.allocate(4096);
  for (let reads = 0; reads < 8; reads++) void file.read(buffer, 0).catch(() => {});
  return [notifier, timer, listener, client, server, file, buffer];
}
