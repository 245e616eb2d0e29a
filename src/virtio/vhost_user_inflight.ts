/**
 * The record of requests in flight as the front end keeps it for back ends to come: who makes its
 * memory, how it is shared, and which part of it belongs to which ring. What is in a part is in
 * inflight.ts.
 */
import { MappedMemory, MemFd } from "../../mod.ts";
import { VirtioError } from "./guest_memory.ts";
import { inflightBytes, InflightQueue } from "./inflight.ts";
import { MemoryViews } from "./memory_views.ts";
import type { VhostUserMessage } from "./vhost_user_message.ts";
import { requireQueueSize } from "./virtqueue.ts";

/** Makes memory for the record that a front end asks for; it gets the file and keeps it. */
export function offerInflight(
  message: VhostUserMessage,
  queuesMax: number,
): { payload: Uint8Array; file: MemFd } {
  const { queues, queueSize } = readPlace(message, queuesMax);
  const size = queues * inflightBytes(queueSize);
  const file = new MemFd("vhost-user inflight", { size, sealable: true });
  file.seal("shrink", "grow", "seal");
  message.payload.setBigUint64(0, BigInt(size), true);
  message.payload.setBigUint64(8, 0n, true);
  return { payload: message.bytes(0), file };
}

/** The record that a front end has brought. */
export class InflightRecord implements Disposable {
  readonly #memory: MappedMemory;
  readonly #views: MemoryViews;
  readonly #queues: number;
  readonly #queueSize: number;

  private constructor(memory: MappedMemory, queues: number, queueSize: number) {
    this.#memory = memory;
    this.#views = new MemoryViews(memory.buffer);
    this.#queues = queues;
    this.#queueSize = queueSize;
  }

  /** Maps it; @throws {VirtioError} when it is not what a record has to be */
  static map(message: VhostUserMessage, queuesMax: number): InflightRecord {
    const { queues, queueSize, length, offset } = readPlace(message, queuesMax);
    if (message.fds.length !== 1) throw new VirtioError("Cannot record requests without a file");
    if (length < queues * inflightBytes(queueSize) || offset % 8 !== 0) {
      throw new VirtioError(`Cannot record requests in ${length} bytes at ${offset}`);
    }
    const memory = new MappedMemory(message.fds[0], { offset, length });
    return new InflightRecord(memory, queues, queueSize);
  }

  /** The part of a ring; @throws {VirtioError} where there is no room for it */
  queue({ index, size }: { readonly index: number; readonly size: number }): InflightQueue {
    if (index >= this.#queues || size > this.#queueSize) {
      throw new VirtioError(`Cannot record the requests of ring ${index} of ${size} entries`);
    }
    const at = this.#memory.byteOffset + index * inflightBytes(this.#queueSize);
    return new InflightQueue(this.#views, at, this.#queueSize);
  }

  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
  }
}

function readPlace(message: VhostUserMessage, queuesMax: number) {
  const queues = message.payload.getUint16(16, true);
  const queueSize = message.payload.getUint16(18, true);
  requireQueueSize(queueSize);
  if (queues === 0 || queues > queuesMax) {
    throw new VirtioError(`Cannot record the requests of ${queues} rings`);
  }
  return { queues, queueSize, length: message.number(0), offset: message.number(8) };
}
