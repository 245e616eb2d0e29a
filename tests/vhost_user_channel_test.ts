/** VhostUserChannel: messages that come together, or in pieces, each have their payload and files. */
import { assertEquals } from "@std/assert";
import { type AioContext, MemFd } from "../mod.ts";
import { VhostUserChannel } from "../src/virtio/vhost_user_channel.ts";
import { type VhostUserName, VhostUserRequest } from "../src/virtio/vhost_user_message.ts";
import { Random } from "./random_values.ts";
import { adoptedPair, eachLoop, SEED } from "./test_sockets.ts";

const ROUNDS = 100;
const FILES = 12;

/** Requests with bytes of a payload, and files, at least and at most. */
const KINDS: readonly [VhostUserName, number, number, number][] = [
  ["getFeatures", 0, 0, 0],
  ["setVringNum", 8, 8, 0],
  ["setVringAddr", 40, 40, 0],
  ["setVringKick", 8, 8, 1],
  ["setVringCall", 8, 8, 1],
  ["setConfig", 12, 268, 0],
  ["setMemTable", 8, 264, 8],
];

/** A message, and what it is to be received as. */
interface Sent {
  readonly name: VhostUserName;
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly files: readonly MemFd[];
}

function makeMessage(random: Random, files: readonly MemFd[]): Sent {
  const [name, least, most, filesMax] = random.pick(KINDS);
  const length = least + random.below(most - least + 1);
  const bytes = new Uint8Array(12 + length);
  const header = new DataView(bytes.buffer);
  header.setUint32(0, VhostUserRequest[name], true);
  header.setUint32(4, 1, true);
  header.setUint32(8, length, true);
  for (let at = 12; at < bytes.length; at++) bytes[at] = random.below(256);
  // What comes with files ends what is received in one go: often enough there are none.
  const count = random.once(3) ? random.below(filesMax + 1) : 0;
  return { name, bytes, files: Array.from({ length: count }, () => random.pick(files)) };
}

function nameOf(fd: number): string {
  return Deno.readLinkSync(`/proc/self/fd/${fd}`);
}

function makeFiles(stack: DisposableStack): MemFd[] {
  return Array.from({ length: FILES }, (_, index) => stack.use(new MemFd(`file ${index}`)));
}

async function sendAndReceive(ctx: AioContext, random: Random, files: MemFd[]): Promise<void> {
  const [near, far] = adoptedPair(ctx);
  await using _near = near, _far = far;
  using channel = new VhostUserChannel(ctx, far);
  for (let round = 0; round < ROUNDS; round++) {
    const burst = Array.from({ length: 1 + random.below(50) }, () => makeMessage(random, files));
    // Either each is received as it comes, or many are there together.
    const receiving = random.once(2) ? receiveAll(channel, burst) : null;
    for (const { bytes, files } of burst) {
      // The files go with the first byte.
      const first = random.once(4) ? 1 + random.below(bytes.length) : bytes.length;
      await near.sendMessage([bytes.subarray(0, first)], files.map(({ fd }) => fd));
      if (first < bytes.length) await near.sendAll(bytes.subarray(first));
    }
    await (receiving ?? receiveAll(channel, burst));
  }
  near.shutdown("write");
  assertEquals(await channel.receive(), null);
}

async function receiveAll(channel: VhostUserChannel, burst: readonly Sent[]): Promise<void> {
  for (const { name, bytes, files } of burst) {
    using message = (await channel.receive())!;
    assertEquals(message.name, name);
    assertEquals(message.bytes(0), bytes.subarray(12));
    assertEquals(message.fds.map(nameOf), files.map(({ fd }) => nameOf(fd)));
  }
}

eachLoop(
  `VhostUserChannel: each message has its payload and its files (AIO_TEST_SEED=${SEED})`,
  async (ctx) => {
    using stack = new DisposableStack();
    await sendAndReceive(ctx, new Random(SEED), makeFiles(stack));
  },
);

eachLoop("VhostUserChannel: files that nobody asked for are closed with it", async (ctx) => {
  using stack = new DisposableStack();
  const files = makeFiles(stack);
  const [near, far] = adoptedPair(ctx);
  await using _near = near, _far = far;
  const channel = new VhostUserChannel(ctx, far);
  const [first, second] = ["setVringNum", "setVringKick"].map((name) => {
    const number = VhostUserRequest[name as VhostUserName];
    return new Uint8Array(new Uint32Array([number, 1, 8, 0, 0]).buffer);
  });
  await near.sendAll(first);
  await near.sendMessage([second], [files[0].fd]);
  using message = await channel.receive();
  assertEquals(message?.name, "setVringNum");
  channel[Symbol.dispose]();
});
