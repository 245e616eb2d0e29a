/**
 * A thread of threads_hop_test.ts: what hops between threads goes on here as a call, as a bottom half, or
 * in a coroutine that holds a mutex while it yields, and then to another thread.
 *
 * Words shared by all: of each token the number of its next hop, which is counted on by whoever runs it;
 * so one that is lost stops, and one that is run twice finds another number.
 */
import "./open_libraries.ts";
import {
  coEnter,
  CoMutex,
  coSchedule,
  type IOThreadScope,
  type Peer,
  type RemoteContext,
} from "../mod.ts";
import { Random } from "./random_values.ts";

/** What each thread is given. */
export interface HopData {
  readonly seed: number;
  /** Number of the next hop of each token. */
  readonly hops: Int32Array<SharedArrayBuffer>;
  /** [0]: one-way tokens end; [1]: how many have. */
  readonly control: Int32Array<SharedArrayBuffer>;
}

/** What a thread counts. */
export interface HopCounts {
  readonly run: number;
  readonly halvesScheduled: number;
  readonly halvesRun: number;
  readonly locked: number;
  readonly guarded: number;
  readonly bottomHalves: number;
  readonly coroutines: number;
}

interface Functions {
  readonly hop: (
    token: number,
    number: number,
    left: number,
    text: string,
  ) => number | Promise<number>;
  readonly wander: (token: number, number: number) => void;
}

/** The default function. */
export default function main({ ctx }: IOThreadScope, { seed, hops, control }: HopData) {
  const random = new Random(seed);
  const mutex = new CoMutex();
  let peers: Peer<Functions>[] = [];
  let run = 0, halvesScheduled = 0, halvesRun = 0, locked = 0, guarded = 0;

  function follow(token: number, number: number): void {
    run++;
    const found = Atomics.add(hops, token, 1);
    if (found !== number) throw new Error(`token ${token} at hop ${number}, not ${found}`);
  }

  /** Goes on here, in one way or another. */
  function detour(): Promise<void> | void {
    switch (random.below(4)) {
      case 0:
        halvesScheduled++;
        return new Promise((resolve) =>
          ctx.scheduleOneshot(() => {
            halvesRun++;
            resolve();
          })
        );
      case 1:
        return coSchedule(ctx, async (co) => {
          const permit = await mutex.lock();
          const before = guarded;
          const half = ctx.bottomHalf(() => coEnter(co));
          half.schedule();
          await co.yield();
          guarded = before + 1;
          permit.release();
          locked++;
        }).join();
    }
  }

  return {
    connect: (remotes: RemoteContext<Functions>[]) => {
      peers = remotes.map((remote) => ctx.peer(remote));
    },
    /** Hops on so often, and hands back how often that was. */
    hop: async (token: number, number: number, left: number, text: string): Promise<number> => {
      follow(token, number);
      await detour();
      if (left === 0) return number;
      return await random.pick(peers).call("hop", token, number + 1, left - 1, text);
    },
    /** Hops on, one-way, until that is to end. */
    wander: async (token: number, number: number): Promise<void> => {
      follow(token, number);
      await detour();
      if (Atomics.load(control, 0) !== 0) {
        Atomics.add(control, 1, 1);
        return;
      }
      const peer = random.pick(peers);
      while (!peer.send("wander", token, number + 1)) await peer.drained();
    },
    counts: (): HopCounts => {
      const { bottomHalves, coroutines } = ctx.stats();
      return { run, halvesScheduled, halvesRun, locked, guarded, bottomHalves, coroutines };
    },
  };
}
