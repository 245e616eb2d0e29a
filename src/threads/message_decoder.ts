/**
 * Bytes of a message as values again; message_encoder.ts has written them, in this process.
 *
 * Nobody's code runs meanwhile: what is made has the prototypes of this thread, and properties are
 * defined, never set.
 */
import { AioError } from "../../ffi/errno.ts";
import { MEMORIES, Tag, UNITS } from "./message_tags.ts";

/** Errors that arrive as what they were; any other arrives as an Error of that name. */
const ERRORS: ReadonlyMap<string, ErrorConstructor> = new Map(
  [Error, TypeError, RangeError, ReferenceError, SyntaxError, EvalError, URIError]
    .map((kind) => [kind.name, kind]),
);

const textDecoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** Turns bytes into values again. */
export class MessageDecoder {
  #bytes = new Uint8Array(0);
  #view = new DataView(this.#bytes.buffer);
  #at = 0;

  /** Decodes so many values. */
  decode(bytes: Uint8Array<ArrayBuffer>, count: number): unknown[] {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#at = 0;
    return Array.from({ length: count }, () => this.#take());
  }

  #take(): unknown {
    const tag = this.#bytes[this.#at++];
    switch (tag) {
      case Tag.undefined:
        return undefined;
      case Tag.null:
        return null;
      case Tag.true:
        return true;
      case Tag.false:
        return false;
      case Tag.number:
        return this.#f64();
      case Tag.string:
        return this.#text();
      case Tag.bigint: {
        const text = this.#text();
        return text.startsWith("-") ? -BigInt(`0x${text.slice(1)}`) : BigInt(`0x${text}`);
      }
      case Tag.array:
        return this.#array();
      case Tag.object:
        return Object.fromEntries(
          Array.from({ length: this.#u32() }, () => [this.#text(), this.#take()]),
        );
      case Tag.map:
        return new Map(Array.from({ length: this.#u32() }, () => [this.#take(), this.#take()]));
      case Tag.set:
        return new Set(Array.from({ length: this.#u32() }, () => this.#take()));
      case Tag.date:
        return new Date(this.#f64());
      case Tag.bytes:
        return this.#memory();
      case Tag.error:
      case Tag.aioError:
        return this.#error(tag === Tag.aioError);
      default:
        throw new Error(`assertion failed: tag ${tag} in a message`);
    }
  }

  #array(): unknown[] {
    const array = new Array(this.#u32());
    for (let index = 0; index < array.length; index++) {
      if (this.#bytes[this.#at] === Tag.hole) this.#at++;
      else array[index] = this.#take();
    }
    return array;
  }

  #memory(): unknown {
    const Kind = MEMORIES[this.#bytes[this.#at++]];
    const length = this.#u32();
    const { buffer } = this.#bytes.slice(this.#at, this.#at += length);
    return Kind === ArrayBuffer ? buffer : new (Kind as Uint8ArrayConstructor)(buffer);
  }

  #error(aio: boolean): Error {
    const name = this.#text(), message = this.#text(), stack = this.#text();
    let error: Error;
    if (aio) {
      const syscall = this.#text();
      error = new AioError("", syscall, this.#u32());
      Object.defineProperty(error, "message", { value: message, writable: true });
    } else {
      error = new (ERRORS.get(name) ?? Error)(message);
      if (error.name !== name) Object.defineProperty(error, "name", { value: name });
    }
    Object.defineProperty(error, "stack", { value: stack, writable: true, configurable: true });
    const cause = this.#take();
    if (cause !== undefined) {
      Object.defineProperty(error, "cause", { value: cause, writable: true });
    }
    return error;
  }

  #text(): string {
    const bits = this.#u32();
    if ((bits & UNITS) !== 0) return this.#units(bits - UNITS);
    return textDecoder.decode(this.#bytes.subarray(this.#at, this.#at += bits));
  }

  #units(bytes: number): string {
    let text = "";
    for (const end = this.#at + bytes; this.#at < end; this.#at += 2) {
      text += String.fromCharCode(this.#view.getUint16(this.#at, true));
    }
    return text;
  }

  #u32(): number {
    const value = this.#view.getUint32(this.#at, true);
    this.#at += 4;
    return value;
  }

  #f64(): number {
    const value = this.#view.getFloat64(this.#at, true);
    this.#at += 8;
    return value;
  }
}
