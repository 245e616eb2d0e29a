/**
 * A thread of thread_remains_test.ts: has contexts in whichever state it is told, and is dropped by Deno
 * before it could dispose them.
 */
import "./open_libraries.ts";
import { loadShim } from "../ffi/library.ts";
import { AioContext, EventNotifier, type FdmonName, type RemoteContext, TimerFd } from "../mod.ts";

/** What it is told: first to make a context, then how to end. */
export interface DropOrder {
  readonly fdmon: FdmonName;
  readonly state: "blocked" | "attached" | "busy" | "files" | "idle";
  readonly path: string;
}

/** What it tells. */
export interface DropReport {
  readonly thread: number;
  readonly remote: RemoteContext<{ never: () => Promise<void>; block: () => void }>;
  /** The number of an fd that it has closed. */
  readonly closed: number;
}

declare const self: {
  onmessage: ((event: MessageEvent<DropOrder | "throw" | "close">) => void) | null;
  postMessage(message: DropReport | "ready"): void;
  close(): void;
};

const kept: unknown[] = [];

self.onmessage = async ({ data }) => {
  if (data === "throw") throw new Error("dropped");
  if (data === "close") return self.close();
  const { fdmon, state, path } = data;
  const ctx = new AioContext({ fdmon });
  kept.push(ctx);
  const remote = ctx.expose({
    never: () => new Promise<void>(() => {}),
    block: () => void ctx.poll(true),
  });
  ctx.attach();
  if (state === "busy" || state === "files") await makeBusy(ctx, path, state === "files");
  if (state !== "attached" && state !== "blocked") ctx.detach();
  // Its number is somebody else's soon.
  const passing = new EventNotifier(), closed = passing.fd;
  passing[Symbol.dispose]();
  self.postMessage({ thread: loadShim().aio_thread_id(), remote, closed });
};

/** Requests in flight, and fds of every kind of owner. */
async function makeBusy(ctx: AioContext, path: string, files: boolean): Promise<void> {
  const listener = ctx.listen({ path: `\0${path}${crypto.randomUUID()}` });
  const accepted = listener.accept();
  const client = await ctx.connect(listener.address as { path: string });
  const server = await accepted;
  const bytes = new Uint8Array(64);
  void server.recv(bytes).catch(() => {});
  void listener.accept().catch(() => {});
  const file = await ctx.openFile(path);
  await file.read(bytes, 0);
  const timer = new TimerFd(), notifier = new EventNotifier();
  ctx.setFdHandler(notifier.fd, { ioRead() {} });
  kept.push(listener, client, server, file, timer, notifier);
  if (files) { for (let reads = 0; reads < 8; reads++) void file.read(bytes, 0).catch(() => {}); }
}

self.postMessage("ready");
