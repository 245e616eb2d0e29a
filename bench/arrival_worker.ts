/**
 * Makes events for bench/record_arrivals.ts: a thread that reads a file and reports each read in
 * shared memory, waiting for the answer before the next one.
 */
import { closeSync, constants, openSync, readSync } from "node:fs";

/** What the worker is asked to read. */
export interface ArrivalOrder {
  readonly words: Int32Array<SharedArrayBuffer>;
  readonly path: string;
  readonly direct: boolean;
  readonly readBytes: number;
  readonly fileBytes: number;
  readonly events: number;
}

const ALIGNMENT = 4096;

declare const self: {
  onmessage: ((event: MessageEvent<ArrivalOrder>) => void) | null;
  postMessage(message: string): void;
};

self.onmessage = ({ data: { words, path, direct, readBytes, fileBytes, events } }) => {
  const fd = openSync(path, constants.O_RDONLY | (direct ? constants.O_DIRECT : 0));
  // Pages of a WebAssembly memory are aligned, as O_DIRECT wants its buffers.
  const memory = new WebAssembly.Memory({ initial: 1 + Math.ceil(readBytes / 65_536) });
  const buffer = new Uint8Array(memory.buffer, 0, readBytes);
  const blocks = Math.floor((fileBytes - readBytes) / ALIGNMENT);
  let random = 1;
  for (let event = 1; event <= events; event++) {
    random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
    readSync(fd, buffer, 0, readBytes, (random % blocks) * ALIGNMENT);
    Atomics.store(words, 0, event);
    while (Atomics.load(words, 1) !== event);
  }
  closeSync(fd);
  self.postMessage("done");
};

self.postMessage("ready");
