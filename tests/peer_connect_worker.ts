/**
 * A thread of peer_end_test.ts: connects to whatever context there is at the moment, calls it once,
 * and goes on to the next; at the end every call has to be settled, whatever became of the other side.
 */
import "./open_libraries.ts";
import { AioContext, type FdmonName, type RemoteContext } from "../mod.ts";

/** What it is told. */
export interface ConnectOrder {
  /** Number of the round, place and generation of its context; -1: the end. */
  readonly shared: Int32Array;
  readonly fdmon: FdmonName;
  readonly board: number;
}

declare const self: {
  onmessage: ((event: MessageEvent<ConnectOrder>) => void) | null;
  postMessage(message: string): void;
};

/** Longest that a call may take; only a lost one takes longer. */
const LOST_NS = 15e9;

self.onmessage = ({ data: { shared, fdmon, board } }) => {
  const ctx = new AioContext({ fdmon });
  let calls = 0;
  self.postMessage("looking");
  for (let round = Atomics.load(shared, 0); round !== -1; round = Atomics.load(shared, 0)) {
    if (round === 0) continue;
    const remote: RemoteContext<{ f: () => number }> = {
      board,
      place: Atomics.load(shared, 1),
      generation: Atomics.load(shared, 2),
    };
    const peer = ctx.peer(remote);
    calls++;
    peer.call("f").catch(() => {});
    const deadlineNs = ctx.now() + LOST_NS;
    while (peer.outstanding !== 0) {
      ctx.poll(false);
      if (ctx.now() > deadlineNs) return self.postMessage(`call ${calls} was lost`);
    }
    peer[Symbol.dispose]();
  }
  ctx[Symbol.dispose]();
  self.postMessage("settled");
};
self.postMessage("ready");
