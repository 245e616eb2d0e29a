/**
 * The handshake: greeting, options until the client has chosen an export, and what both have agreed
 * on by then.
 *
 * An option that is not known, or not valid, is refused and the next one heard. Only what nothing can
 * be answered to ends a connection: a wrong magic number, flags that were not offered, lengths beyond
 * all reason. Invariant: no more than `OPTION_MAX` bytes are kept of an option.
 */
import type { AioSocket } from "../../mod.ts";
import { type CheckedExport, type NbdExports, transmissionFlags } from "./exports.ts";
import type { NbdInput } from "./input.ts";
import { MetaQuery } from "./meta_query.ts";
import {
  BASE_ALLOCATION,
  BASE_ALLOCATION_ID,
  HandshakeFlag,
  HeaderBytes,
  Info,
  Magic,
  Option,
  OptionReply,
  PAYLOAD_MAX,
  STRING_MAX,
} from "./protocol.ts";
import { type ReplyForm, storeU64 } from "./reply.ts";

/** Longest data of an option that is looked at: names and queries of the longest kind. */
const OPTION_MAX = 65_536;
/** Longest data that is read to be refused. */
const REFUSED_MAX = 1 << 24;
/** Zeros that old clients want to read. */
const ZEROES_BYTES = 124;

/** What a connection begins to transmit with. */
export interface Agreement {
  readonly chosen: CheckedExport;
  readonly form: ReplyForm;
  /** BLOCK_STATUS may be asked. */
  readonly hasContext: boolean;
}

/** A client that does not keep to the protocol. */
export class ProtocolViolation extends Error {}

const text = new TextDecoder(), utf8 = new TextEncoder();

/** One handshake. */
export class Negotiation {
  readonly #input: NbdInput;
  readonly #socket: AioSocket;
  readonly #exports: NbdExports;
  #form: ReplyForm = "simple";
  #noZeroes = false;
  /** Whose base:allocation was selected. */
  #contextOf: CheckedExport | null = null;
  /** Replies that are to be sent. */
  #out: Uint8Array[] = [];

  constructor(input: NbdInput, socket: AioSocket, exports: NbdExports) {
    this.#input = input;
    this.#socket = socket;
    this.#exports = exports;
  }

  /**
   * Talks to the client until it has chosen.
   *
   * @returns null where it has ended the connection, or wants to
   * @throws {ProtocolViolation} when it does not keep to the protocol
   */
  async run(): Promise<Agreement | null> {
    await this.#socket.sendAll(greeting());
    const flags = await this.#input.read(4);
    if (flags === null) return null;
    const clientFlags = viewOf(flags).getUint32(0);
    const known = HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes;
    if ((clientFlags & ~known) !== 0) throw new ProtocolViolation("flags that were not offered");
    this.#noZeroes = (clientFlags & HandshakeFlag.noZeroes) !== 0;
    for (;;) {
      const header = await this.#input.read(HeaderBytes.option);
      if (header === null) return null;
      const view = viewOf(header);
      const [high, low] = Magic.option;
      if (view.getUint32(0) !== high || view.getUint32(4) !== low) {
        throw new ProtocolViolation("an option without its magic number");
      }
      const option = view.getUint32(8), length = view.getUint32(12);
      const chosen = await this.#hear(option, length);
      await this.#flush();
      if (chosen === "end") return null;
      if (chosen === null) continue;
      return { chosen, form: this.#form, hasContext: this.#contextOf === chosen };
    }
  }

  /** Hears one option; returns the export where one is chosen, null to go on. */
  async #hear(option: number, length: number): Promise<CheckedExport | "end" | null> {
    if (option === Option.exportName) {
      if (length > STRING_MAX) throw new ProtocolViolation("a name without end");
      const name = await this.#input.read(length);
      return name === null ? "end" : this.#exportName(name);
    }
    if (length > OPTION_MAX) {
      if (length > REFUSED_MAX) throw new ProtocolViolation("an option without end");
      if (!await this.#input.skip(length)) return "end";
      this.#reply(option, OptionReply.tooBig, utf8.encode(`more than ${OPTION_MAX} bytes`));
      return null;
    }
    const data = await this.#input.read(length);
    if (data === null) return "end";
    switch (option) {
      case Option.abort:
        this.#reply(option, OptionReply.ack);
        return "end";
      case Option.list:
        this.#list(option, data);
        return null;
      case Option.info:
      case Option.go:
        return this.#info(option, data);
      case Option.structuredReply:
      case Option.extendedHeaders:
        this.#chooseForm(option, data);
        return null;
      case Option.listMetaContext:
      case Option.setMetaContext:
        this.#metaContext(option, data);
        return null;
      case Option.starttls:
        if (data.length !== 0) this.#refuse(option, "STARTTLS has no data");
        else this.#reply(option, OptionReply.policy, utf8.encode("this server has no TLS"));
        return null;
      default:
        this.#reply(option, OptionReply.unsupported, utf8.encode("not known here"));
        return null;
    }
  }

  #exportName(name: Uint8Array): CheckedExport {
    const chosen = this.#exports.find(text.decode(name));
    // There is no way to say no.
    if (chosen === null) throw new ProtocolViolation("a name that no export has");
    if (this.#form === "extended") throw new ProtocolViolation("EXPORT_NAME and extended headers");
    const reply = new Uint8Array(10 + (this.#noZeroes ? 0 : ZEROES_BYTES));
    storeU64(viewOf(reply), 0, chosen.device.size);
    viewOf(reply).setUint16(8, transmissionFlags(chosen, this.#form));
    this.#out.push(reply);
    return chosen;
  }

  #list(option: number, data: Uint8Array): void {
    if (data.length !== 0) return this.#refuse(option, "LIST has no data");
    for (const { nameBytes, descriptionBytes } of this.#exports.all) {
      const entry = new Uint8Array(4 + nameBytes.length + descriptionBytes.length);
      viewOf(entry).setUint32(0, nameBytes.length);
      entry.set(nameBytes, 4);
      entry.set(descriptionBytes, 4 + nameBytes.length);
      this.#reply(option, OptionReply.server, entry);
    }
    this.#reply(option, OptionReply.ack);
  }

  #info(option: number, data: Uint8Array): CheckedExport | null {
    const view = viewOf(data);
    const nameLength = data.length < 6 ? STRING_MAX : view.getUint32(0);
    const at = 4 + nameLength;
    const count = nameLength > STRING_MAX || at + 2 > data.length ? -1 : view.getUint16(at);
    if (count === -1 || data.length !== at + 2 + count * 2) {
      this.#refuse(option, "lengths that do not fit");
      return null;
    }
    const chosen = this.#exports.find(text.decode(data.subarray(4, at)));
    if (chosen === null) {
      this.#reply(option, OptionReply.unknown, utf8.encode("no export has that name"));
      return null;
    }
    const wanted = Array.from({ length: count }, (_, index) => view.getUint16(at + 2 + index * 2));
    this.#describe(option, chosen, wanted);
    this.#reply(option, OptionReply.ack);
    return option === Option.go ? chosen : null;
  }

  /** What is known of an export, as far as it is wanted or has to be told. */
  #describe(option: number, chosen: CheckedExport, wanted: readonly number[]): void {
    const { device, nameBytes, descriptionBytes } = chosen;
    const size = new Uint8Array(10);
    storeU64(viewOf(size), 0, device.size);
    viewOf(size).setUint16(8, transmissionFlags(chosen, this.#form));
    this.#replyInfo(option, Info.export, size);
    if (wanted.includes(Info.name)) this.#replyInfo(option, Info.name, nameBytes);
    if (wanted.includes(Info.description) && descriptionBytes.length !== 0) {
      this.#replyInfo(option, Info.description, descriptionBytes);
    }
    if (!wanted.includes(Info.blockSize) && device.blockSize === 1) return;
    const sizes = new Uint8Array(12);
    viewOf(sizes).setUint32(0, device.blockSize);
    viewOf(sizes).setUint32(4, device.preferredBlockSize);
    viewOf(sizes).setUint32(8, PAYLOAD_MAX);
    this.#replyInfo(option, Info.blockSize, sizes);
  }

  #chooseForm(option: number, data: Uint8Array): void {
    const form = option === Option.extendedHeaders ? "extended" : "structured";
    if (data.length !== 0) return this.#refuse(option, "the option has no data");
    if (form === "structured" && this.#form === "extended") {
      const why = utf8.encode("extended headers are chosen already");
      return this.#reply(option, OptionReply.extHeaderRequired, why);
    }
    if (form === this.#form) return this.#refuse(option, "it is chosen already");
    this.#form = form;
    this.#reply(option, OptionReply.ack);
  }

  #metaContext(option: number, data: Uint8Array): void {
    const sets = option === Option.setMetaContext;
    if (sets) this.#contextOf = null;
    if (this.#form === "simple") return this.#refuse(option, "it needs structured replies");
    const query = MetaQuery.read(data);
    if (query === null) return this.#refuse(option, "lengths that do not fit");
    const chosen = this.#exports.find(query.exportName);
    if (chosen === null) {
      return this.#reply(option, OptionReply.unknown, utf8.encode("no export has that name"));
    }
    if (sets ? query.selectsBaseAllocation : query.listsBaseAllocation) {
      const name = utf8.encode(BASE_ALLOCATION);
      const context = new Uint8Array(4 + name.length);
      viewOf(context).setUint32(0, sets ? BASE_ALLOCATION_ID : 0);
      context.set(name, 4);
      this.#reply(option, OptionReply.metaContext, context);
      if (sets) this.#contextOf = chosen;
    }
    this.#reply(option, OptionReply.ack);
  }

  #replyInfo(option: number, type: number, data: Uint8Array): void {
    const info = new Uint8Array(2 + data.length);
    viewOf(info).setUint16(0, type);
    info.set(data, 2);
    this.#reply(option, OptionReply.info, info);
  }

  #refuse(option: number, why: string): void {
    this.#reply(option, OptionReply.invalid, utf8.encode(why));
  }

  #reply(option: number, type: number, data: Uint8Array = new Uint8Array(0)): void {
    const reply = new Uint8Array(HeaderBytes.optionReply + data.length);
    const view = viewOf(reply);
    const [high, low] = Magic.optionReply;
    view.setUint32(0, high);
    view.setUint32(4, low);
    view.setUint32(8, option);
    view.setUint32(12, type);
    view.setUint32(16, data.length);
    reply.set(data, HeaderBytes.optionReply);
    this.#out.push(reply);
  }

  /** Sends what there is to be said to an option, as one. */
  async #flush(): Promise<void> {
    const length = this.#out.reduce((sum, { length }) => sum + length, 0);
    const all = new Uint8Array(length);
    let at = 0;
    for (const part of this.#out) {
      all.set(part, at);
      at += part.length;
    }
    this.#out = [];
    if (length !== 0) await this.#socket.sendAll(all);
  }
}

function greeting(): Uint8Array {
  const bytes = new Uint8Array(HeaderBytes.greeting);
  const view = viewOf(bytes);
  [...Magic.nbd, ...Magic.option].forEach((word, index) => view.setUint32(index * 4, word));
  view.setUint16(16, HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes);
  return bytes;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
