/**
 * What `bench` measures of sockets: an echo server that does as the floor in C does.
 *
 * It serves while Deno's own loop waits for questions, as a program does that uses both. Memory for
 * messages comes from the context and is used again by later connections.
 */
import { AioContext, type AioSocket } from "../../mod.ts";
import type { Measure } from "./bench_child.ts";

/** Bytes that are taken at once: more than a message. */
const ECHO_BYTES = 256;

declare const gc: () => void;

/** Serves a unix socket from now on; the figure is the process's memory in bytes. */
export function serveEcho(path: string): Measure {
  const ctx = new AioContext();
  const listener = ctx.listen({ path });
  const served = ctx.run(async () => {
    const free: Uint8Array[] = [];
    for (;;) {
      const socket = await listener.accept();
      const buffer = free.pop() ?? ctx.buffers.allocate(ECHO_BYTES);
      echo(socket, buffer).then(() => free.push(buffer));
    }
  });
  served.catch((error) => {
    console.error(error);
    Deno.exit(1);
  });
  return () => {
    gc();
    return { value: Deno.memoryUsage().rss };
  };
}

async function echo(socket: AioSocket, buffer: Uint8Array): Promise<void> {
  for (let count; (count = await socket.recv(buffer)) !== 0;) {
    for (let sent = 0; sent < count;) sent += await socket.send(buffer.subarray(sent, count));
  }
  await socket.close();
}
