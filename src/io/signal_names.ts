/**
 * Signals by their names, as Deno has them, and by the numbers of this system.
 */
import { constants } from "node:os";

const NUMBERS = new Map<string, number>(Object.entries(constants.signals));

/**
 * The number of a signal.
 *
 * @param what what cannot be done without it, as `"Cannot send a signal"`
 * @throws {TypeError} when this system has none of that name
 */
export function signalNumber(name: unknown, what: string): number {
  const number = typeof name === "string" ? NUMBERS.get(name) : undefined;
  if (number === undefined) {
    throw new TypeError(`${what} as there is none of that name: ${Deno.inspect(name)}`);
  }
  return number;
}
