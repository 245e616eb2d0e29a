/**
 * A socket as Web streams, for code that takes those.
 *
 * A chunk is memory of its own, as its reader may keep it or transfer it away. Nothing is received
 * before somebody reads, nothing accepted for sending before what came earlier is sent.
 */
import type { AioSocket } from "./socket.ts";

/** Bytes of a chunk at most. */
const CHUNK_BYTES = 65_536;

/** What a socket receives. */
export function readableOf(socket: AioSocket): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new ReadableStream({
    async pull(controller) {
      const chunk = new Uint8Array(CHUNK_BYTES);
      const count = await socket.recv(chunk);
      if (count === 0) controller.close();
      else controller.enqueue(count === CHUNK_BYTES ? chunk : chunk.slice(0, count));
    },
    cancel() {
      try {
        socket.shutdown("read");
      } catch {
        // Nothing comes any more as it is: the socket is closed, or its peer gone.
      }
    },
  }, { highWaterMark: 0 });
}

/** What a socket sends. */
export function writableOf(socket: AioSocket): WritableStream<Uint8Array> {
  return new WritableStream({
    async write(chunk, { signal }) {
      // Aborting the stream waits for this.
      await socket.sendAll(chunk, { signal });
    },
    close() {
      socket.shutdown("write");
    },
    abort() {
      return socket.close();
    },
  });
}
