/** Sockets against sockets of another kind: Deno's and node's, with data both ways at once. */
import { assert } from "@std/assert";
import { once } from "node:events";
import net from "node:net";
import type { AioSocket } from "../mod.ts";
import { newFolder } from "./child.ts";
import { Random } from "./random_values.ts";
import { pattern } from "./test_files.ts";
import { eachLoop, isSame, joined, LOOPBACK, receiveAll, SEED } from "./test_sockets.ts";

/** Data both ways at once, in pieces of random sizes, against a peer of another kind. */
async function exchange(
  socket: AioSocket,
  random: Random,
  size: number,
  peerSends: (bytes: Uint8Array) => Promise<void>,
  peerReceives: () => Promise<Uint8Array>,
): Promise<void> {
  const out = pattern(size + random.below(size), random.below(99));
  const incoming = pattern(size + random.below(size), random.below(99));
  const send = async () => {
    for (let at = 0; at < out.byteLength;) {
      const piece = out.subarray(at, at + 1 + random.below(300_000));
      if (random.once(2)) at += await socket.send(piece);
      else at += await socket.sendAll(piece).then(() => piece.byteLength);
    }
    socket.shutdown("write");
  };
  const [received, peerReceived] = await Promise.all([
    receiveAll(socket, random),
    peerReceives(),
    send(),
    peerSends(incoming),
  ]);
  assert(isSame(received, incoming), "what the peer sent");
  assert(isSame(peerReceived, out), "what the peer received");
  await socket.close();
}

eachLoop(
  `AioSocket: data both ways at once with Deno's peers (AIO_TEST_SEED=${SEED})`,
  async (ctx) => {
    const random = new Random(SEED);
    const at = { path: `${newFolder()}/socket` };
    await using local = ctx.listen(at), tcp = ctx.listen(LOOPBACK);
    for (const listener of [local, tcp]) {
      const connecting = listener === local
        ? Deno.connect({ transport: "unix", ...at })
        : Deno.connect(tcp.address as { hostname: string; port: number });
      const socket = await listener.accept();
      using peer: Deno.Conn = await connecting;
      const sends = async (bytes: Uint8Array) => {
        for (let at = 0; at < bytes.byteLength;) at += await peer.write(bytes.subarray(at));
        await peer.closeWrite();
      };
      const receives = async () => {
        const pieces: Uint8Array[] = [], piece = new Uint8Array(100_000);
        for (let count; (count = await peer.read(piece)) !== null;) {
          pieces.push(piece.slice(0, count));
        }
        return joined(pieces);
      };
      // Each step of Deno's waits for the end of a turn of ours.
      await exchange(socket, random, 3e5, sends, receives);
    }
  },
);

eachLoop(
  `AioSocket: megabytes both ways at once with node's peers (AIO_TEST_SEED=${SEED})`,
  async (ctx) => {
    const random = new Random(SEED);
    const server = net.createServer({ allowHalfOpen: true });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as { port: number };
    const connected = once(server, "connection");
    const socket = await ctx.connect({ hostname: "127.0.0.1", port });
    const [peer] = await connected as [net.Socket];
    const pieces: Uint8Array[] = [];
    peer.on("data", (piece) => pieces.push(piece));
    const ended = once(peer, "end");
    const sends = async (bytes: Uint8Array) => {
      peer.end(bytes);
      await once(peer, "finish");
    };
    const closed = once(peer, "close");
    await exchange(socket, random, 2e6, sends, () => ended.then(() => joined(pieces)));
    await closed;
    server.close();
    await once(server, "close");
  },
);
