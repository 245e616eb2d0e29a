/**
 * Values of options as the commands take them: what the user typed becomes a number or a name, or is
 * refused by a message that has both the option and the value.
 */
import { UsageError } from "./exit.ts";

/** A whole number within limits. */
export function wholeNumber(option: string, text: string, min: number, max: number): number {
  if (!/^-?\d+$/.test(text)) {
    throw new UsageError(`Cannot use ${option} ${text} as it is not a whole number`);
  }
  return inRange(option, text, min, max);
}

/** A number, in digits, within limits. */
export function inRange(option: string, text: string, min: number, max: number): number {
  const value = Number(text);
  if (value >= min && value <= max) return value;
  throw new UsageError(`Cannot use ${option} ${text} as it is not between ${min} and ${max}`);
}

/** One of some names. */
export function oneOf<Name extends string>(
  option: string,
  text: string,
  names: readonly Name[],
): Name {
  const name = names.find((name) => name === text);
  if (name !== undefined) return name;
  throw new UsageError(`Cannot use ${option} ${text} as it is not one of ${names.join(", ")}`);
}

const UNITS = "KMGTPE";

/** A size in bytes, as qemu's tools take it: `512`, `64K`, `1.5G`. */
export function bytes(option: string, text: string): number {
  const [, digits, unit] = /^(\d+(?:\.\d+)?)([KMGTPE]?)$/i.exec(text) ?? [];
  if (digits === undefined) {
    throw new UsageError(`Cannot use ${option} ${text || '""'} as it is not a size, such as 64M`);
  }
  const value = Number(digits) * 1024 ** (unit === "" ? 0 : UNITS.indexOf(unit.toUpperCase()) + 1);
  if (value >= 1 && Math.floor(value) <= Number.MAX_SAFE_INTEGER) return Math.floor(value);
  throw new UsageError(`Cannot use ${option} ${text} as it is not between 1 and 2^53 bytes`);
}
