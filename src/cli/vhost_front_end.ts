/**
 * A vhost-user front end, as a virtual machine has one: sends requests to a back end and takes its
 * replies.
 *
 * It knows the shape of messages, which it shares with the back end, and no device. It sends whatever
 * it is told, so that tests can misbehave with it.
 */
import type { AioSocket } from "../../mod.ts";
import {
  HEADER_BYTES,
  MessageBit,
  type VhostUserName,
  VhostUserRequest,
} from "../virtio/vhost_user_message.ts";
import { CommandError } from "./exit.ts";

/** A message with a payload of 64-bit numbers, or 32-bit ones. */
export function payloadOf(...values: (number | bigint)[]): Uint8Array<ArrayBuffer> {
  const wide = values.reduce((sum: number, value) => sum + (typeof value === "bigint" ? 8 : 4), 0);
  const view = new DataView(new ArrayBuffer(wide));
  let at = 0;
  for (const value of values) {
    if (typeof value === "bigint") view.setBigUint64(at, value, true);
    else view.setUint32(at, value, true);
    at += typeof value === "bigint" ? 8 : 4;
  }
  return new Uint8Array(view.buffer);
}

/** A reply. */
export interface FrontEndReply {
  readonly payload: DataView<ArrayBuffer>;
  /** Files that came with it, which are the caller's. */
  readonly fds: readonly number[];
}

/** The front end's side of a connection. */
export class VhostFrontEnd implements AsyncDisposable {
  readonly socket: AioSocket;
  /** Requests without a reply of their own are acknowledged by the back end. */
  acknowledged = false;

  /** @param socket taken over */
  constructor(socket: AioSocket) {
    this.socket = socket;
  }

  /** Sends a request as it is. */
  async send(
    request: number,
    payload: Uint8Array,
    fds: readonly number[] = [],
    flags: number = MessageBit.version,
  ): Promise<void> {
    const bytes = new Uint8Array(HEADER_BYTES + payload.length);
    bytes.set(payloadOf(request, flags, payload.length));
    bytes.set(payload, HEADER_BYTES);
    const sent = await this.socket.sendMessage([bytes], fds);
    if (sent < bytes.length) await this.socket.sendAll(bytes.subarray(sent));
  }

  /**
   * Sends a request that has no reply of its own, and waits for its acknowledgement where agreed.
   *
   * @throws {CommandError} when the back end has refused it
   */
  async tell(
    name: VhostUserName,
    payload: Uint8Array = new Uint8Array(0),
    fds: readonly number[] = [],
  ): Promise<void> {
    const flags = MessageBit.version | (this.acknowledged ? MessageBit.needReply : 0);
    await this.send(VhostUserRequest[name], payload, fds, flags);
    if (!this.acknowledged) return;
    const reply = await this.receive(name);
    if (reply.payload.getBigUint64(0, true) !== 0n) {
      throw new CommandError(`The back end has refused ${name}`);
    }
  }

  /** Sends a request, with files, and waits for its reply. */
  async ask(
    name: VhostUserName,
    payload: Uint8Array = new Uint8Array(0),
    fds: readonly number[] = [],
  ): Promise<FrontEndReply> {
    await this.send(VhostUserRequest[name], payload, fds);
    return await this.receive(name);
  }

  /** Asks for a 64-bit number. */
  async askNumber(name: VhostUserName): Promise<bigint> {
    return (await this.ask(name)).payload.getBigUint64(0, true);
  }

  /** Waits for the reply to a request. */
  async receive(name: VhostUserName): Promise<FrontEndReply> {
    const header = new Uint8Array(HEADER_BYTES);
    const { fds } = await this.#fill(header, name);
    const view = new DataView(header.buffer);
    if (view.getUint32(0, true) !== VhostUserRequest[name]) {
      throw new CommandError(`The back end has answered ${view.getUint32(0, true)} to ${name}`);
    }
    const payload = new Uint8Array(view.getUint32(8, true));
    if (payload.length !== 0) await this.#fill(payload, name);
    return { payload: new DataView(payload.buffer), fds };
  }

  /** Closes the connection. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.socket.close();
  }

  async #fill(bytes: Uint8Array, name: string): Promise<{ fds: readonly number[] }> {
    let done = 0, fds: readonly number[] = [];
    while (done < bytes.length) {
      const message = await this.socket.recvMessage([bytes.subarray(done)], { fdsMax: 1 });
      if (message.byteLength === 0) {
        throw new CommandError(`The back end has dropped us at ${name}`);
      }
      done += message.byteLength;
      if (message.fds.length !== 0) fds = message.fds;
    }
    return { fds };
  }
}
