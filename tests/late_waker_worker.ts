/**
 * A thread of link_test.ts: enters a wake-up while the context is open, waits until that is being
 * disposed, and only then says what is new. As Board.wake, were it interrupted there.
 */
import "./open_libraries.ts";
import { boardWords, PlaceWord } from "./context_place.ts";

/** What it is told. */
export interface LateWaker {
  readonly entered: Int32Array;
  readonly place: number;
  readonly link: number;
}

declare const self: {
  onmessage: ((event: MessageEvent<LateWaker>) => void) | null;
  postMessage(message: string): void;
};

self.onmessage = ({ data: { entered, place, link } }) => {
  Atomics.add(boardWords, place + PlaceWord.users, 1);
  Atomics.store(entered, 0, 1);
  Atomics.notify(entered, 0);
  while (Atomics.load(boardWords, place + PlaceWord.users) > 0);
  Atomics.or(boardWords, place + PlaceWord.links + (link >> 5), 1 << (link & 31));
  Atomics.or(boardWords, place + PlaceWord.groups, 1 << (link >> 5));
  Atomics.sub(boardWords, place + PlaceWord.users, 1);
  self.postMessage("over");
};
self.postMessage("ready");
