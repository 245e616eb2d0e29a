/** What stands in the bytes of a message: the tags of values, and the numbers of kinds of memory. */

/** What a value is. */
export const Tag = {
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
  hole: 15,
} as const;
/** Bit of a text's length: units of 16 bits follow, as it is no well-formed Unicode. */
export const UNITS = 0x8000_0000;

/** Buffers and views that can be sent, by the number they are known by. */
export const MEMORIES = [
  ArrayBuffer,
  DataView,
  Float16Array,
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
