/**
 * What messages between threads are made of: values as bytes; message_decoder.ts turns them back.
 *
 * Numbers alone, as most messages on a hot path have them, are written as they are, eight bytes
 * each. Everything else becomes a tag and what follows it. A value arrives as a copy, as with
 * structuredClone: plain objects, arrays, maps, sets, dates, buffers and their views, and errors; what
 * cannot be copied, as functions and shared memory, is refused by name. What stands in a value twice
 * arrives as two, and what contains itself not at all. Errors keep their class where it is one of the
 * language's or AioError, else their name.
 *
 * Getters and proxies are run while a value is read and may do anything, sending included. So each part
 * is looked at once, and a count is written when it is known what was written. What a value is, is
 * asked of where the language keeps that, not of its properties. Invariant: bytes that `encode`
 * returns can be decoded.
 */
import { AioError } from "../../ffi/errno.ts";
import { MEMORIES, Tag, UNITS } from "./message_tags.ts";

/** Longest message in bytes; more belongs into memory that both sides can see. */
export const MESSAGE_LIMIT = 1 << 24;
/** Objects within objects; one that contains itself ends here. */
const DEPTH_MAX = 100;
const FIRST_BYTES = 4096, KEPT_BYTES = 1 << 20;

const MEMORY_KINDS: ReadonlyMap<string, number> = new Map(
  MEMORIES.map(({ name }, kind) => [name, kind]),
);

const textEncoder = new TextEncoder();

/** Reads what the language itself knows of an object, whatever properties that has. */
function intrinsic(prototype: object, key: PropertyKey): (object: object) => unknown {
  const { get } = Object.getOwnPropertyDescriptor(prototype, key)!;
  return (object) => Reflect.apply(get!, object, []);
}

const ofTypedArray = Object.getPrototypeOf(Uint8Array.prototype);
/** The name of a typed array's class; undefined for any other object. */
const typedArrayName = intrinsic(ofTypedArray, Symbol.toStringTag);
const TypedArray = {
  buffer: intrinsic(ofTypedArray, "buffer"),
  byteOffset: intrinsic(ofTypedArray, "byteOffset"),
  byteLength: intrinsic(ofTypedArray, "byteLength"),
};
const View = {
  buffer: intrinsic(DataView.prototype, "buffer"),
  byteOffset: intrinsic(DataView.prototype, "byteOffset"),
  byteLength: intrinsic(DataView.prototype, "byteLength"),
};
/** Throws for what is no ArrayBuffer. */
const bufferLength = intrinsic(ArrayBuffer.prototype, "byteLength");

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
      return this.#bytes.subarray(0, this.#length);
    } finally {
      this.#busy = false;
      // What one long message needed is not kept for the short ones after it.
      if (this.#bytes.length > KEPT_BYTES) this.#use(new Uint8Array(FIRST_BYTES));
    }
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
    if (Array.isArray(value)) this.#array(value, depth);
    else if (value instanceof Map) {
      const count = this.#begin(Tag.map);
      let members = 0;
      for (const [key, member] of Map.prototype.entries.call(value)) {
        this.#put(key, depth);
        this.#put(member, depth);
        members++;
      }
      this.#count(count, members);
    } else if (value instanceof Set) {
      const count = this.#begin(Tag.set);
      let members = 0;
      for (const member of Set.prototype.values.call(value)) {
        this.#put(member, depth);
        members++;
      }
      this.#count(count, members);
    } else if (value instanceof Date) {
      this.#byte(Tag.date);
      this.#f64(Date.prototype.getTime.call(value));
    } else if (value instanceof Error) this.#error(value, depth);
    else if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) this.#memory(value);
    else this.#plain(value, depth);
  }

  #array(array: readonly unknown[], depth: number): void {
    // A proxy may say anything, and something else the next time.
    const length = Number(array.length) >>> 0;
    // Each takes a byte at least; not to be found out one by one.
    if (length > MESSAGE_LIMIT) throw tooLong();
    this.#count(this.#begin(Tag.array), length);
    for (let index = 0; index < length; index++) {
      const value = array[index];
      if (value !== undefined || index in array) this.#put(value, depth);
      else this.#byte(Tag.hole);
    }
  }

  #plain(value: object, depth: number): void {
    const prototype = Object.getPrototypeOf(value);
    if (prototype !== null && prototype !== Object.prototype) {
      throw notCopyable(`a ${nameOf(prototype)}`);
    }
    const keys = Object.keys(value);
    this.#count(this.#begin(Tag.object), keys.length);
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
      this.#text(String(error.syscall));
      this.#u32(Number(error.errno));
    }
    const at = this.#length;
    let cause: unknown = "a cause that cannot be read";
    try {
      cause = error.cause;
      this.#put(cause, depth);
    } catch {
      // The error itself matters more than a cause that cannot be told whole.
      this.#length = at;
      this.#put(textOf(cause), depth);
    }
  }

  #memory(value: ArrayBuffer | ArrayBufferView): void {
    let name = "ArrayBuffer", bytes: Uint8Array;
    if (value instanceof ArrayBuffer) {
      bufferLength(value);
      bytes = new Uint8Array(value);
    } else {
      const typed = typedArrayName(value) as string | undefined;
      const { buffer, byteOffset, byteLength } = typed === undefined ? View : TypedArray;
      const memory = buffer(value) as ArrayBuffer | SharedArrayBuffer;
      if (!(memory instanceof ArrayBuffer)) throw notCopyable("a view of shared memory");
      bytes = new Uint8Array(memory, byteOffset(value) as number, byteLength(value) as number);
      name = typed ?? "DataView";
    }
    const kind = MEMORY_KINDS.get(name);
    if (kind === undefined) throw notCopyable(`a ${name}`);
    this.#byte(Tag.bytes);
    this.#byte(kind);
    this.#u32(bytes.length);
    this.#room(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  /** Begins something that has members; returns where their number is to be written. */
  #begin(tag: number): number {
    this.#byte(tag);
    this.#u32(0);
    return this.#length - 4;
  }

  #count(at: number, members: number): void {
    this.#view.setUint32(at, members, true);
  }

  #text(text: string): void {
    if (!text.isWellFormed()) return this.#units(text);
    // Three bytes are the most that a unit of a string takes, and one is the least.
    this.#room(4 + text.length);
    this.#room(Math.min(4 + text.length * 3, MESSAGE_LIMIT - this.#length));
    const at = this.#length + 4;
    const { read, written } = textEncoder.encodeInto(text, this.#bytes.subarray(at));
    if (read !== text.length) throw tooLong();
    this.#view.setUint32(this.#length, written, true);
    this.#length = at + written;
  }

  /** A text with halves of surrogate pairs, which UTF-8 has no bytes for. */
  #units(text: string): void {
    this.#u32((text.length * 2 | UNITS) >>> 0);
    this.#room(text.length * 2);
    for (let index = 0; index < text.length; index++, this.#length += 2) {
      this.#view.setUint16(this.#length, text.charCodeAt(index), true);
    }
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
    if (needed > MESSAGE_LIMIT) throw tooLong();
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

/** The name of what is made with a prototype. */
function nameOf(prototype: object): string {
  const { name } = Object.getOwnPropertyDescriptor(prototype, "constructor")?.value ?? {};
  return typeof name === "string" && name !== "" ? name : "value of a class";
}

/** What was thrown as a text, whatever it is. */
export function textOf(cause: unknown): string {
  try {
    return String(cause);
  } catch {
    return "something that has no text";
  }
}

function tooLong(): RangeError {
  return new RangeError(
    `Cannot send a message as it has more than ${MESSAGE_LIMIT} bytes: share memory instead`,
  );
}

function notCopyable(what: string): TypeError {
  return new TypeError(`Cannot send ${what} to another thread as it cannot be copied`);
}
