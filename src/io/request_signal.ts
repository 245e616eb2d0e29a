/**
 * The AbortSignal of a request: read once, before anything is done for the request, as the options
 * are a caller's and a getter may do anything.
 *
 * The methods used are those of the platform: a signal may have been given others of its own, which
 * throw or lie.
 */
import type { RequestOptions } from "./operation.ts";

const abortedOf: () => boolean = Object.getOwnPropertyDescriptor(AbortSignal.prototype, "aborted")!
  .get!;
const { addEventListener, removeEventListener } = EventTarget.prototype;

/**
 * Reads the signal of a request.
 *
 * @throws the signal's reason where it is aborted; a TypeError where it is none
 */
export function readSignal(options: RequestOptions | undefined): AbortSignal | null {
  if (options === undefined) return null;
  if (typeof options !== "object" || options === null) {
    const kind = options === null ? "null" : typeof options;
    throw new TypeError(`Cannot use the options as they are no object: ${kind}`);
  }
  const signal = options.signal ?? null;
  if (signal === null) return null;
  if (!(signal instanceof AbortSignal)) {
    throw new TypeError(`Cannot use the signal as it is no AbortSignal: ${typeof signal}`);
  }
  if (isAborted(signal)) throw signal.reason;
  return signal;
}

/** Whether a signal is aborted. @throws {TypeError} where it is none */
export function isAborted(signal: AbortSignal): boolean {
  return abortedOf.call(signal);
}

/** Calls a function when the signal is aborted. */
export function heedSignal(signal: AbortSignal, listener: () => void): void {
  addEventListener.call(signal, "abort", listener);
}

/** Calls it no more. */
export function ignoreSignal(signal: AbortSignal, listener: () => void): void {
  removeEventListener.call(signal, "abort", listener);
}
