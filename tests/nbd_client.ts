/**
 * An NBD client that says what a test wants said, well-formed or not, and shows what comes back.
 *
 * It is written from the protocol's text and shares no code with the server.
 */
import { assert, assertEquals } from "@std/assert";
import type { AioContext, AioSocket, SocketAddress } from "../mod.ts";
import { joined, receiveCount } from "./test_sockets.ts";

/** Big-endian numbers, one after the other: `u16(1, 2)`. */
const numbers = (bytes: 2 | 4 | 8) => (...values: (number | bigint)[]): Uint8Array => {
  const view = new DataView(new ArrayBuffer(values.length * bytes));
  values.forEach((value, index) => {
    const at = index * bytes;
    if (bytes === 2) view.setUint16(at, Number(value));
    else if (bytes === 4) view.setUint32(at, Number(value));
    else view.setBigUint64(at, BigInt(value));
  });
  return new Uint8Array(view.buffer);
};
export const u16 = numbers(2), u32 = numbers(4), u64 = numbers(8);

export const text = (value: string): Uint8Array => new TextEncoder().encode(value);

/** A string behind its length. */
export const string = (value: string): Uint8Array => joined([u32(text(value).length), text(value)]);

const IHAVEOPT = 0x49484156454f5054n;

export const Opt = {
  ...{ exportName: 1, abort: 2, list: 3, starttls: 5, info: 6, go: 7, structured: 8 },
  ...{ listMeta: 9, setMeta: 10, extended: 11 },
} as const;
export const Rep = {
  ...{ ack: 1, server: 2, info: 3, meta: 4 },
  ...{ unsup: 0x80000001, policy: 0x80000002, invalid: 0x80000003, unknown: 0x80000006 },
  ...{ tooBig: 0x80000009, extRequired: 0x8000000a },
} as const;
export const Cmd = {
  ...{ read: 0, write: 1, disc: 2, flush: 3, trim: 4, cache: 5, zeroes: 6, status: 7 },
} as const;
export const Flag = { fua: 1, noHole: 2, df: 4, reqOne: 8, fastZero: 16, payloadLen: 32 } as const;

/** A reply to an option. */
export interface OptionReply {
  readonly type: number;
  readonly data: Uint8Array;
}

/** A part of a reply; of a simple reply it is the only one. */
export interface Chunk {
  readonly done: boolean;
  readonly type: number;
  readonly cookie: bigint;
  readonly offset: bigint;
  readonly data: Uint8Array;
}

/** All of a reply, put together. */
export interface Reply {
  readonly errno: number;
  readonly chunks: readonly Chunk[];
  /** What READ has brought; holes as zeros. */
  readonly data: Uint8Array;
}

/** A request that is not finished: what is not given is 0. */
export interface RawRequest {
  readonly command: number;
  readonly flags?: number;
  readonly cookie?: number | bigint;
  readonly offset?: number | bigint;
  readonly length?: number | bigint;
  readonly payload?: Uint8Array;
}

export type Form = "simple" | "structured" | "extended";

export class NbdClient implements AsyncDisposable {
  readonly socket: AioSocket;
  form: Form = "simple";
  #cookie = 0;

  constructor(socket: AioSocket) {
    this.socket = socket;
  }

  /** Connects, and answers the greeting. */
  static async connect(ctx: AioContext, at: SocketAddress, flags = 3): Promise<NbdClient> {
    const client = new NbdClient(await ctx.connect(at));
    const greeting = await client.receive(18);
    assertEquals(greeting, joined([text("NBDMAGICIHAVEOPT"), u16(3)]));
    await client.send(u32(flags));
    return client;
  }

  /** Connects, and begins to transmit. */
  static async open(
    ctx: AioContext,
    at: SocketAddress,
    form: Form = "structured",
    name = "",
  ): Promise<NbdClient> {
    const client = await NbdClient.connect(ctx, at);
    if (form !== "simple") {
      await client.agree(form === "extended" ? Opt.extended : Opt.structured);
      const query = joined([string(name), u32(1), string("base:allocation")]);
      const [context] = await client.option(Opt.setMeta, query);
      assertEquals(context.type, Rep.meta);
    }
    client.form = form;
    assertEquals((await client.option(Opt.go, joined([string(name), u16(0)]))).at(-1)!.type, 1);
    return client;
  }

  send(...parts: readonly Uint8Array[]): Promise<void> {
    return this.socket.sendAll(joined(parts));
  }

  receive(length: number): Promise<Uint8Array> {
    return receiveCount(this.socket, length);
  }

  /** Whether the server has ended the connection; what it still says is dropped. */
  async isEnded(): Promise<boolean> {
    const bytes = new Uint8Array(65_536);
    try {
      while (await this.socket.recv(bytes) !== 0);
    } catch {
      // Reset, as it had not read everything.
    }
    return true;
  }

  async sendOption(option: number, data: Uint8Array = new Uint8Array(), length = data.length) {
    await this.send(u64(IHAVEOPT), u32(option, length), data);
  }

  /** All replies to an option, up to the last one. */
  async option(option: number, data?: Uint8Array): Promise<OptionReply[]> {
    await this.sendOption(option, data);
    return await this.optionReplies(option);
  }

  async optionReplies(option: number): Promise<OptionReply[]> {
    const replies: OptionReply[] = [];
    for (;;) {
      const view = new DataView((await this.receive(20)).buffer);
      assertEquals(view.getBigUint64(0), 0x3e889045565a9n);
      assertEquals(view.getUint32(8), option);
      const type = view.getUint32(12);
      replies.push({ type, data: await this.receive(view.getUint32(16)) });
      if (type === Rep.ack || type >= 0x80000000) return replies;
    }
  }

  /** An option without data that has to be accepted. */
  async agree(option: number): Promise<void> {
    assertEquals((await this.option(option)).map(({ type }) => type), [Rep.ack]);
  }

  /** Sends a request, and returns its cookie. */
  async sendRequest(request: RawRequest): Promise<bigint> {
    const cookie = BigInt(request.cookie ?? ++this.#cookie);
    await this.send(this.encode({ ...request, cookie }));
    return cookie;
  }

  encode(request: RawRequest): Uint8Array {
    const { command, flags = 0, cookie = 0, offset = 0, payload } = request;
    const extended = this.form === "extended";
    const length = request.length ?? payload?.length ?? 0;
    return joined([
      u32(extended ? 0x21e41c71 : 0x25609513),
      u16(flags, command),
      u64(cookie, offset),
      extended ? u64(length) : u32(length),
      payload ?? new Uint8Array(),
    ]);
  }

  /** The next chunk, or simple reply; `dataLength` is what a simple reply to READ brings. */
  async chunk(dataLength = 0): Promise<Chunk> {
    const magic = new DataView((await this.receive(4)).buffer).getUint32(0);
    if (magic === 0x67446698) {
      assert(this.form !== "extended");
      const view = new DataView((await this.receive(12)).buffer);
      const errno = view.getUint32(0), cookie = view.getBigUint64(4);
      const data = errno === 0 ? await this.receive(dataLength) : u32(errno);
      return { done: true, type: errno === 0 ? 1 : 0x8001, cookie, offset: 0n, data };
    }
    const extended = this.form === "extended";
    assertEquals(magic, extended ? 0x6e8a278c : 0x668e33ef);
    const view = new DataView((await this.receive(extended ? 28 : 16)).buffer);
    const length = extended ? Number(view.getBigUint64(20)) : view.getUint32(12);
    return {
      done: (view.getUint16(0) & 1) !== 0,
      type: view.getUint16(2),
      cookie: view.getBigUint64(4),
      offset: extended ? view.getBigUint64(12) : 0n,
      data: await this.receive(length),
    };
  }

  /** The next reply, which has to be to that request. */
  async reply(cookie: bigint, request: RawRequest): Promise<Reply> {
    const chunks: Chunk[] = [];
    const reads = request.command === Cmd.read;
    const length = reads ? Number(request.length) : 0;
    // A length that is refused brings no data.
    const data = new Uint8Array(length < 2 ** 26 ? length : 0);
    const isSimple = this.form === "simple";
    let errno = 0;
    do {
      const chunk = await this.chunk(isSimple ? length : 0);
      assertEquals(chunk.cookie, cookie);
      if (this.form === "extended") assertEquals(chunk.offset, BigInt(request.offset ?? 0));
      chunks.push(chunk);
      const view = new DataView(chunk.data.buffer);
      if (chunk.type === 0x8001) errno = view.getUint32(0);
      else if (reads && isSimple) data.set(chunk.data);
      else if (reads && chunk.type === 1) {
        const at = Number(view.getBigUint64(0) - BigInt(request.offset ?? 0));
        data.set(chunk.data.subarray(8), at);
      }
    } while (!chunks.at(-1)!.done);
    return { errno, chunks, data };
  }

  /** Sends a request and waits for its reply. */
  async ask(request: RawRequest): Promise<Reply> {
    return await this.reply(await this.sendRequest(request), request);
  }

  /** The error that a request is answered with. */
  async errnoOf(request: RawRequest): Promise<number> {
    return (await this.ask(request)).errno;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.socket.close();
  }
}
