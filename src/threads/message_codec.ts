/**
 * What messages between threads are made of: values as bytes, and back.
 *
 * Numbers alone, as most messages on a hot path have them, are written as they are, eight bytes
 * each. Everything else becomes a tag and what follows it. A value arrives as a copy, as with
 * structuredClone: plain objects, arrays, maps, sets, dates, typed arrays and errors; what cannot be
 * copied, as functions and shared memory, is refused by name.
 */
import { AioError } from "../../ffi/errno.ts";

/** Longest message in bytes; more belongs into memory that both sides can see. */
export const MESSAGE_LIMIT = 1 << 24;
/** Objects within objects; one that contains itself ends here. */
const DEPTH_MAX = 100;
const FIRST_BYTES = 4096;

const Tag = {
  undefined: 0,
  null: 1,
  true: 2,
  false: 3,
  number: 4,
  string: 5,
  bigint: 6,
  array: 7,
  object: 8,
  map: 9,
  set: 10,
  date: 11,
  bytes: 12,
  error: 13,
  aioError: 14,
} as const;

/** Views and buffers that can be sent, by the number they are known by. */
const VIEWS = [
  ArrayBuffer,
  Uint8Array,
  Int8Array,
  Uint8ClampedArray,
  Uint16Array,
  Int16Array,
  Uint32Array,
  Int32Array,
  Float32Array,
  Float64Array,
  BigUint64Array,
  BigInt64Array,
] as const;

/** Errors that arrive as what they were; any other arrives as an Error of that name. */
const ERRORS: ReadonlyMap<string, ErrorConstructor> = new Map(
  [Error, TypeError, RangeError, ReferenceError, SyntaxError, EvalError, URIError]
    .map((kind) => [kind.name, kind]),
);

const textEncoder = new TextEncoder(), textDecoder = new TextDecoder();

/** Whether all values are numbers, which need no encoding. */
export function areNumbers(values: readonly unknown[]): values is readonly number[] {
  for (let index = 0; index < values.length; index++) {
    if (typeof values[index] !== "number") return false;
  }
  return true;
}

/** Turns values into bytes, in memory that is used again. */
export class MessageEncoder {
  #bytes = new Uint8Array(FIRST_BYTES);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;
  #busy = false;

  /**
   * Encodes values one after the other.
   *
   * @returns the bytes, until the next call
   * @throws {TypeError} for what cannot be copied
   * @throws {RangeError} for what is too long, or contains itself
   */
  encode(values: readonly unknown[]): Uint8Array<ArrayBuffer> {
    // A getter of what is sent may send something itself.
    if (this.#busy) return new MessageEncoder().encode(values);
    this.#length = 0;
    this.#busy = true;
    try {
      for (const value of values) this.#put(value, 0);
    } finally {
      this.#busy = false;
    }
    const { length } = this.#bytes;
    const bytes = this.#bytes.subarray(0, this.#length);
    // What one long message needed is not kept for the short ones after it.
    if (length > 1 << 20) this.#use(new Uint8Array(FIRST_BYTES));
    return bytes;
  }

  #put(value: unknown, depth: number): void {
    switch (typeof value) {
      case "undefined":
        return this.#byte(Tag.undefined);
      case "boolean":
        return this.#byte(value ? Tag.true : Tag.false);
      case "number":
        this.#byte(Tag.number);
        return this.#f64(value);
      case "string":
        this.#byte(Tag.string);
        return this.#text(value);
      case "bigint":
        this.#byte(Tag.bigint);
        return this.#text(value.toString(16));
      case "object":
        return value === null ? this.#byte(Tag.null) : this.#object(value, depth + 1);
      default:
        throw notCopyable(`a ${typeof value}`);
    }
  }

  #object(value: object, depth: number): void {
    if (depth > DEPTH_MAX) {
      throw new RangeError(
        `Cannot send a value as it contains itself, or more than ${DEPTH_MAX} objects in each other`,
      );
    }
    if (Array.isArray(value)) {
      this.#begin(Tag.array, value.length);
      for (let index = 0; index < value.length; index++) this.#put(value[index], depth);
    } else if (value instanceof Map) {
      this.#begin(Tag.map, value.size);
      for (const [key, member] of value) {
        this.#put(key, depth);
        this.#put(member, depth);
      }
    } else if (value instanceof Set) {
      this.#begin(Tag.set, value.size);
      for (const member of value) this.#put(member, depth);
    } else if (value instanceof Date) {
      this.#byte(Tag.date);
      this.#f64(value.getTime());
    } else if (value instanceof Error) this.#error(value, depth);
    else if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) this.#memory(value);
    else this.#plain(value, depth);
  }

  #plain(value: object, depth: number): void {
    const prototype = Object.getPrototypeOf(value);
    if (prototype !== null && prototype !== Object.prototype) {
      throw notCopyable(`a ${prototype.constructor?.name || "value of a class"}`);
    }
    const keys = Object.keys(value);
    this.#begin(Tag.object, keys.length);
    for (const key of keys) {
      this.#text(key);
      this.#put((value as Record<string, unknown>)[key], depth);
    }
  }

  #error(error: Error, depth: number): void {
    const aio = error instanceof AioError;
    this.#byte(aio ? Tag.aioError : Tag.error);
    for (const text of [error.name, error.message, error.stack ?? ""]) this.#text(String(text));
    if (aio) {
      this.#text(error.syscall);
      this.#u32(error.errno);
    }
    try {
      this.#put(error.cause, depth);
    } catch (problem) {
      // The error itself matters more than a cause that cannot be told.
      if (!(problem instanceof TypeError)) throw problem;
      this.#put(String(error.cause), depth);
    }
  }

  #memory(value: ArrayBuffer | ArrayBufferView): void {
    const kind = VIEWS.findIndex((kind) => value.constructor === kind);
    if (kind === -1) throw notCopyable(`a ${value.constructor.name}`);
    const bytes = value instanceof ArrayBuffer
      ? new Uint8Array(value)
      : new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
    this.#byte(Tag.bytes);
    this.#byte(kind);
    this.#u32(bytes.length);
    this.#room(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  #begin(tag: number, count: number): void {
    this.#byte(tag);
    this.#u32(count);
  }

  #text(text: string): void {
    // Three bytes are the most that a unit of a string takes.
    this.#room(4 + text.length * 3);
    const at = this.#length + 4;
    const { written } = textEncoder.encodeInto(text, this.#bytes.subarray(at));
    this.#view.setUint32(this.#length, written, true);
    this.#length = at + written;
  }

  #byte(value: number): void {
    this.#room(1);
    this.#bytes[this.#length++] = value;
  }

  #u32(value: number): void {
    this.#room(4);
    this.#view.setUint32(this.#length, value, true);
    this.#length += 4;
  }

  #f64(value: number): void {
    this.#room(8);
    this.#view.setFloat64(this.#length, value, true);
    this.#length += 8;
  }

  #room(bytes: number): void {
    const needed = this.#length + bytes;
    if (needed <= this.#bytes.length) return;
    if (needed > MESSAGE_LIMIT) {
      throw new RangeError(
        `Cannot send a message as it has more than ${MESSAGE_LIMIT} bytes: share memory instead`,
      );
    }
    const larger = new Uint8Array(
      Math.min(MESSAGE_LIMIT, Math.max(needed, this.#bytes.length * 2)),
    );
    larger.set(this.#bytes.subarray(0, this.#length));
    this.#use(larger);
  }

  #use(bytes: Uint8Array<ArrayBuffer>): void {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer);
  }
}

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
        return Array.from({ length: this.#u32() }, () => this.#take());
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

  #memory(): unknown {
    const Kind = VIEWS[this.#bytes[this.#at++]];
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
    const length = this.#u32();
    return textDecoder.decode(this.#bytes.subarray(this.#at, this.#at += length));
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

function notCopyable(what: string): TypeError {
  return new TypeError(`Cannot send ${what} to another thread as it cannot be copied`);
}
