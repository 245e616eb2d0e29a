/**
 * A thread of wake_up_test.ts: posts numbers and wakes the context after each one.
 *
 * Words of its own, two for each worker: what it has posted and what the loop has seen. Now and
 * then it waits until the loop has seen everything, so that the next post finds the loop asleep.
 */
import { type RemoteContext, wakeContext } from "../mod.ts";

/** What the test tells a worker. */
export interface WakeUpOrder {
  readonly remote: RemoteContext;
  readonly words: Int32Array<SharedArrayBuffer>;
  /** Its number, from 0. */
  readonly worker: number;
  readonly wakeUps: number;
  readonly seed: number;
}

/** Longest that a seen post may take; only a lost wake-up takes longer. */
const LOST_MS = 20_000;

declare const self: {
  onmessage: ((event: MessageEvent<WakeUpOrder>) => void) | null;
  postMessage(message: string): void;
};

self.onmessage = ({ data: { remote, words, worker, wakeUps, seed } }) => {
  const posted = worker * 2, seen = worker * 2 + 1;
  let random = seed;
  for (let number = 1; number <= wakeUps; number++) {
    // Release: the wake-up after it makes the loop look at this word.
    Atomics.store(words, posted, number);
    if (!wakeContext(remote)) return self.postMessage("the context is disposed");
    random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
    if (random >>> 28 !== 0) continue;
    for (;;) {
      const last = Atomics.load(words, seen);
      if (last === number) break;
      if (Atomics.wait(words, seen, last, LOST_MS) === "timed-out") {
        return self.postMessage(`wake-up ${number} was lost`);
      }
    }
  }
  self.postMessage("done");
};

self.postMessage("ready");
