/** A plain Worker of io_thread_test.ts: calls an IOThread whose remote it is sent. */
import "./open_libraries.ts";
import { AioContext, type RemoteContext } from "../mod.ts";

/** What it calls. */
interface Functions {
  readonly add: (a: number, b: number) => number;
  readonly name: () => string;
}

declare const self: {
  onmessage: ((event: MessageEvent<RemoteContext<Functions>>) => void) | null;
  postMessage(message: unknown): void;
};

self.onmessage = async ({ data: remote }) => {
  using ctx = new AioContext();
  using peer = ctx.peer(remote);
  const results = await ctx.run(() => Promise.all([peer.call("add", 1, 2), peer.call("name")]));
  self.postMessage(results);
};
self.postMessage("ready");
