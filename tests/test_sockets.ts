/** Sockets for tests: connected pairs on one context, data to send, and what arrives of it. */
import { assert } from "@std/assert";
import { type AioContext, AioError, type AioSocket, type SocketAddress } from "../mod.ts";
import { eachFdmon, type MakeContext } from "./each_fdmon.ts";
import { makePair } from "./libc.ts";
import { countingFds } from "./open_files.ts";
import { Random } from "./random_values.ts";
import { rejection } from "./test_files.ts";

/** Of everything that is random in the tests of sockets. */
export const SEED = Number(
  Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32),
);

export const LOOPBACK: SocketAddress = { hostname: "127.0.0.1", port: 0 };

let names = 0;

/** An abstract name that nobody else has. */
export function abstractName(): { path: string } {
  return { path: `\0aio_test_${Deno.pid}_${names++}` };
}

/** Registers a test that runs in `ctx.run` on each backend and leaves no fd open. */
export function eachLoop(
  name: string,
  test: (ctx: AioContext, makeContext: MakeContext) => Promise<void>,
): void {
  eachFdmon(name, (makeContext) =>
    countingFds(async () => {
      using ctx = makeContext();
      await ctx.run(() => test(ctx, makeContext));
    })());
}

/** Two sockets that are connected to each other by TCP, or over a unix socket. */
export async function connectedPair(
  ctx: AioContext,
  at: SocketAddress = LOOPBACK,
): Promise<[AioSocket, AioSocket]> {
  await using listener = ctx.listen(at);
  const accepted = listener.accept();
  const near = await ctx.connect(listener.address);
  return [near, await accepted];
}

/** Two sockets of socketpair(2), which block. */
export function adoptedPair(ctx: AioContext): [AioSocket, AioSocket] {
  const [one, other] = makePair("socket");
  return [ctx.adoptSocket(one), ctx.adoptSocket(other)];
}

/** Receives to the end, in pieces of random sizes. */
export async function receiveAll(socket: AioSocket, random = new Random(1)): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  for (;;) {
    const piece = new Uint8Array(1 + random.below(100_000));
    const count = await socket.recv(piece);
    if (count === 0) break;
    pieces.push(piece.subarray(0, count));
  }
  return joined(pieces);
}

/** Receives as many bytes as that. */
export async function receiveCount(socket: AioSocket, count: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(count);
  for (let at = 0; at < count;) {
    const received = await socket.recv(bytes.subarray(at));
    assert(received > 0, `the end after ${at} of ${count} bytes`);
    at += received;
  }
  return bytes;
}

/** Pieces one after the other. */
export function joined(pieces: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(pieces.reduce((sum, { byteLength }) => sum + byteLength, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.byteLength;
  }
  return all;
}

/** Whether bytes are the same; assertEquals takes seconds for megabytes. */
export function isSame(one: Uint8Array, other: Uint8Array): boolean {
  return one.byteLength === other.byteLength && one.every((byte, at) => byte === other[at]);
}

/** The code of the system's error that a promise rejects with. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  const error = await rejection(promise);
  if (!(error instanceof AioError)) throw error;
  return error.code;
}

/** Lets promise jobs, Deno's events and the loop go on for a few rounds. */
export async function goOn(rounds = 3): Promise<void> {
  for (let round = 0; round < rounds; round++) await new Promise((done) => setTimeout(done, 0));
}
