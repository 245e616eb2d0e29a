/**
 * One client: the handshake, then requests until it or the server has enough.
 *
 * Requests are read one after the other and carried out at the same time; what is in flight is
 * bounded by number and by bytes of memory, and beyond that nothing more is read. A client that stops
 * reading its replies so stops being read, and costs what it is allowed to at most. Invariant: `run`
 * ends when nothing is in flight any more and the socket is closed.
 */
import type { AioContext, AioSocket } from "../../mod.ts";
import type { BlockDevice } from "../block/block_device.ts";
import type { NbdExports } from "./exports.ts";
import { NbdInput } from "./input.ts";
import { NbdMemory } from "./memory.ts";
import { type Agreement, Negotiation, ProtocolViolation } from "./negotiation.ts";
import { NbdOutput } from "./output.ts";
import {
  BASE_ALLOCATION_ID,
  Command,
  CommandFlag,
  HeaderBytes,
  Magic,
  NbdErrno,
} from "./protocol.ts";
import type { ReplyForm } from "./reply.ts";
import { NbdRequest, type RequestOwner } from "./request.ts";
import type { NbdCounters } from "./stats.ts";
import { validate } from "./validate.ts";

const TWO_32 = 2 ** 32;
/** Rest of a payload that is worth memory of its own, rather than another receive for many. */
const OWN_PAYLOAD_MIN = 32_768;
/** Longest payload that is read to be refused; who sends more is dropped. */
const REFUSED_MAX = TWO_32;
/** Longest payload of BLOCK_STATUS: a length and more contexts than there are. */
const STATUS_PAYLOAD_MAX = 8 + 4 * 64;

/** What the connections of a server share. */
export interface ConnectionParts {
  readonly ctx: AioContext;
  readonly exports: NbdExports;
  readonly memory: NbdMemory;
  readonly counters: NbdCounters;
  /** Request objects that nobody uses. */
  readonly freeRequests: NbdRequest[];
  /** Requests in flight at most, of one connection. */
  readonly requestsMax: number;
  /** Bytes of memory that they may take. */
  readonly bytesMax: number;
  /** Told why a connection has ended, where that was an error. */
  readonly report: (error: unknown) => void;
}

/** Free request objects that are kept. */
const FREE_REQUESTS_MAX = 1024;

/** A connection. */
export class NbdConnection implements RequestOwner {
  readonly #parts: ConnectionParts;
  readonly #socket: AioSocket;
  readonly #input: NbdInput;
  #output: NbdOutput | null = null;
  #agreement: Agreement | null = null;
  /** No more requests are taken. */
  #stopped = false;
  #inFlight = 0;
  #bytes = 0;
  /** Waits for less to be in flight. */
  #roomWanted: (() => void) | null = null;

  constructor(parts: ConnectionParts, socket: AioSocket) {
    this.#parts = parts;
    this.#socket = socket;
    this.#input = new NbdInput(parts.ctx, socket, parts.memory, parts.counters);
  }

  /** What is served. */
  get device(): BlockDevice {
    return this.#agreement!.chosen.device;
  }

  /** How replies look. */
  get form(): ReplyForm {
    return this.#agreement!.form;
  }

  /** Serves until the client is gone, or does what it must not. */
  async run(): Promise<void> {
    try {
      await this.#serve();
    } catch (error) {
      // That a client is gone is no failure of the server.
      if (error instanceof ProtocolViolation) this.#parts.counters.violations++;
      this.#parts.report(error);
    } finally {
      this.#stopped = true;
      while (this.#inFlight !== 0) await this.#wait();
      this.#input.close();
      await this.#socket.close();
    }
  }

  /** Takes no more requests: `run` ends once those in flight are replied to. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    try {
      // A receive that waits ends with that.
      this.#socket.shutdown("read");
    } catch {
      // The client was faster.
    }
    this.#roomWanted?.();
  }

  /** Ends without waiting for a client that does not read its replies. */
  abort(): void {
    this.#stopped = true;
    try {
      this.#socket.shutdown();
    } catch {
      // The client was faster.
    }
  }

  async #serve(): Promise<void> {
    const { counters, exports } = this.#parts;
    const agreement = await new Negotiation(this.#input, this.#socket, exports).run();
    if (agreement === null) return;
    this.#agreement = agreement;
    this.#output = new NbdOutput(
      this.#socket,
      counters,
      (request) => this.#finish(request),
      () => this.stop(),
    );
    const extended = agreement.form === "extended";
    const headerBytes = extended ? HeaderBytes.extendedRequest : HeaderBytes.request;
    const input = this.#input;
    while (!this.#stopped) {
      while (input.available < headerBytes) if (!await input.fill()) return;
      if (this.#stopped || !await this.#hear(extended, headerBytes)) return;
    }
  }

  /** Reads the request at the beginning of the input; false where it is the last. */
  #hear(extended: boolean, headerBytes: number): boolean | Promise<boolean> {
    const { view, start: at } = this.#input;
    if (view.getUint32(at) !== (extended ? Magic.extendedRequest : Magic.request)) {
      throw new ProtocolViolation("a request without its magic number");
    }
    const { freeRequests, ctx, memory, counters } = this.#parts;
    const request = freeRequests.pop() ?? new NbdRequest(ctx, memory);
    request.begin(this);
    request.flags = view.getUint16(at + 4);
    const command = request.command = view.getUint16(at + 6);
    request.cookieHigh = view.getUint32(at + 8);
    request.cookieLow = view.getUint32(at + 12);
    request.offsetHigh = view.getUint32(at + 16);
    request.offsetLow = view.getUint32(at + 20);
    // Beyond 2 to the power of 53 they are not exact, and no device is so large.
    request.offset = request.offsetHigh * TWO_32 + request.offsetLow;
    request.length = extended
      ? view.getUint32(at + 24) * TWO_32 + view.getUint32(at + 28)
      : view.getUint32(at + 24);
    this.#input.start = at + headerBytes;
    if (command < counters.requests.length) counters.requests[command]++;
    if (command === Command.disconnect) {
      this.#recycle(request);
      return false;
    }
    const hasPayload = command === Command.write ||
      (extended && (request.flags & CommandFlag.payloadLen) !== 0);
    return hasPayload ? this.#hearPayload(request) : this.#take(request);
  }

  /** A request without a payload: begins it, as soon as there is room. */
  #take(request: NbdRequest): boolean | Promise<boolean> {
    const errno = validate(request, this.#agreement!);
    const reads = request.command === Command.read && errno === 0;
    const charge = reads ? NbdMemory.bytesFor(request.length) : 0;
    if (!this.#hasRoom(charge)) return this.#takeLater(request, charge, errno);
    this.#begin(request, charge);
    if (errno === 0) request.start();
    else request.refuse(errno);
    return true;
  }

  async #takeLater(request: NbdRequest, charge: number, errno: number): Promise<boolean> {
    while (!this.#hasRoom(charge) && !this.#stopped) await this.#wait();
    if (this.#stopped) {
      this.#recycle(request);
      return false;
    }
    this.#begin(request, charge);
    if (errno === 0) request.start();
    else request.refuse(errno);
    return true;
  }

  /** A request with a payload, which is received for a WRITE and read past for all that is refused. */
  #hearPayload(request: NbdRequest): boolean | Promise<boolean> {
    const { command, length } = request;
    if (command === Command.write) {
      const errno = validate(request, this.#agreement!);
      if (errno !== 0) return this.#refusePayload(request, errno);
      if (length <= this.#input.available && this.#hasRoom(length)) {
        this.#begin(request, length);
        if (length !== 0) request.addPart(this.#input.take(length), this.#input.buffer);
        this.#parts.counters.bytesWritten += length;
        request.start();
        return true;
      }
      return this.#receivePayload(request);
    }
    const wanted = command === Command.blockStatus && length <= STATUS_PAYLOAD_MAX;
    return wanted
      ? this.#hearStatusPayload(request)
      : this.#refusePayload(request, NbdErrno.EINVAL);
  }

  async #receivePayload(request: NbdRequest): Promise<boolean> {
    const charge = NbdMemory.bytesFor(request.length);
    while (!this.#hasRoom(charge) && !this.#stopped) await this.#wait();
    this.#begin(request, charge);
    try {
      if (await this.#receiveParts(request)) {
        this.#parts.counters.bytesWritten += request.length;
        request.start();
        return true;
      }
    } catch (error) {
      this.#finish(request);
      throw error;
    }
    // Half a request is none.
    this.#finish(request);
    return false;
  }

  /** Receives a payload, in receive buffers and memory of its own; false at the end. */
  async #receiveParts(request: NbdRequest): Promise<boolean> {
    const input = this.#input;
    let left = request.length;
    const takePart = (): void => {
      const count = Math.min(left, input.available);
      if (count === 0) return;
      request.addPart(input.take(count), input.buffer);
      left -= count;
    };
    takePart();
    if (left !== 0 && left < OWN_PAYLOAD_MIN && input.full && await input.fill()) takePart();
    if (left === 0) return true;
    const bytes = request.takePayload(left);
    request.parts.push(bytes);
    return !this.#stopped && await input.receiveInto(bytes);
  }

  /** Reads a payload that nobody wants, and says why. */
  async #refusePayload(request: NbdRequest, errno: number): Promise<boolean> {
    if (request.length > REFUSED_MAX) throw new ProtocolViolation("a payload without end");
    if (!await this.#input.skip(request.length)) {
      this.#recycle(request);
      return false;
    }
    return await this.#takeLater(request, 0, errno);
  }

  /** BLOCK_STATUS of the contexts that are named, of which there is but one to be named. */
  async #hearStatusPayload(request: NbdRequest): Promise<boolean> {
    const payload = await this.#input.read(request.length);
    if (payload === null) {
      this.#recycle(request);
      return false;
    }
    const view = new DataView(payload.buffer);
    const named = payload.length === 12 && view.getUint32(8) === BASE_ALLOCATION_ID;
    if (!named) return await this.#takeLater(request, 0, NbdErrno.EINVAL);
    request.length = view.getUint32(0) * TWO_32 + view.getUint32(4);
    return await this.#take(request);
  }

  /** One request may always be in flight, however long it is. */
  #hasRoom(charge: number): boolean {
    const { requestsMax, bytesMax } = this.#parts;
    return this.#inFlight === 0 ||
      (this.#inFlight < requestsMax && this.#bytes + charge <= bytesMax);
  }

  #wait(): Promise<void> {
    return new Promise((resolve) => this.#roomWanted = resolve);
  }

  #begin(request: NbdRequest, charge: number): void {
    this.#inFlight++;
    this.#bytes += charge;
    request.charge = charge;
  }

  /** A request has put its reply together. */
  reply(request: NbdRequest): void {
    const { counters } = this.#parts;
    if (request.errno !== 0) counters.errors++;
    counters.bytesRead += request.dataSent;
    this.#output!.add(request);
  }

  /** The reply of a request has been sent, or nobody is there to get it. */
  #finish(request: NbdRequest): void {
    this.#inFlight--;
    this.#bytes -= request.charge;
    this.#recycle(request);
    if (this.#roomWanted === null) return;
    const goOn = this.#roomWanted;
    this.#roomWanted = null;
    goOn();
  }

  #recycle(request: NbdRequest): void {
    request.finish();
    const { freeRequests } = this.#parts;
    if (freeRequests.length < FREE_REQUESTS_MAX) freeRequests.push(request);
  }
}
