/**
 * Arithmetic on lists of buffers that stand for one run of bytes.
 */

/** What is left of buffers after their first bytes. */
export function without(buffers: readonly Uint8Array[], count: number): Uint8Array[] {
  let at = 0;
  for (; at < buffers.length && count >= buffers[at].length; at++) count -= buffers[at].length;
  const left = buffers.slice(at);
  if (count !== 0) left[0] = left[0].subarray(count);
  return left;
}

/** Copies the first bytes of buffers to one that may be shorter than all of them. */
export function gather(from: readonly Uint8Array[], to: Uint8Array): void {
  let at = 0;
  for (const buffer of from) {
    if (at === to.length) return;
    const part = buffer.subarray(0, to.length - at);
    to.set(part, at);
    at += part.length;
  }
}

/** Copies a buffer to the beginning of buffers. */
export function scatter(from: Uint8Array, to: readonly Uint8Array[]): void {
  let at = 0;
  for (const buffer of to) {
    if (at === from.length) return;
    const part = from.subarray(at, at + buffer.length);
    buffer.set(part);
    at += part.length;
  }
}
