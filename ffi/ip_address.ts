/**
 * IP addresses between text and bytes in network order, by the rules of inet_pton(3): IPv4 is four
 * decimal numbers without leading zeros; IPv6 is what RFC 4291 allows, an IPv4 tail included.
 *
 * IPv6 is written as RFC 5952 asks for, so an address has one text. Names are not looked up here,
 * and zone ids are the business of ffi/socket_address.ts, as they are no part of the 16 bytes.
 */

const IPV4_BYTES = 4;
const IPV6_BYTES = 16;
const IPV6_GROUPS = 8;

/** Addresses that are IPv4's, as `::ffff:192.0.2.1`. */
const MAPPED_PREFIX = [0, 0, 0, 0, 0, 0xffff];

/** The four bytes of an IPv4 address; null when it is none. */
export function parseIpv4(text: string): Uint8Array<ArrayBuffer> | null {
  const parts = text.split(".");
  if (parts.length !== IPV4_BYTES) return null;
  const bytes = new Uint8Array(IPV4_BYTES);
  for (const [index, part] of parts.entries()) {
    if (!/^(0|[1-9][0-9]{0,2})$/.test(part) || Number(part) > 255) return null;
    bytes[index] = Number(part);
  }
  return bytes;
}

/** The sixteen bytes of an IPv6 address without zone; null when it is none. */
export function parseIpv6(text: string): Uint8Array<ArrayBuffer> | null {
  const halves = text.split("::");
  if (halves.length > 2) return null;
  const head = parseGroups(halves[0], halves.length === 1);
  const tail = halves.length === 1 ? [] : parseGroups(halves[1], true);
  if (head === null || tail === null) return null;
  const missing = IPV6_GROUPS - head.length - tail.length;
  // `::` stands for at least one group.
  if (halves.length === 1 ? missing !== 0 : missing < 1) return null;
  const bytes = new Uint8Array(IPV6_BYTES);
  const view = new DataView(bytes.buffer);
  head.forEach((group, index) => view.setUint16(2 * index, group));
  tail.forEach((group, index) => view.setUint16(2 * (head.length + missing + index), group));
  return bytes;
}

/** Groups of one side of `::`; the last may be an IPv4 address where the address ends. */
function parseGroups(text: string, isLast: boolean): number[] | null {
  if (text === "") return [];
  const parts = text.split(":");
  const groups: number[] = [];
  for (const [index, part] of parts.entries()) {
    if (/^[0-9a-f]{1,4}$/i.test(part)) {
      groups.push(parseInt(part, 16));
      continue;
    }
    const ipv4 = isLast && index === parts.length - 1 ? parseIpv4(part) : null;
    if (ipv4 === null) return null;
    groups.push(ipv4[0] << 8 | ipv4[1], ipv4[2] << 8 | ipv4[3]);
  }
  return groups;
}

/** The text of four bytes. */
export function formatIpv4(bytes: Uint8Array): string {
  return bytes.subarray(0, IPV4_BYTES).join(".");
}

/** The text of sixteen bytes. */
export function formatIpv6(bytes: Uint8Array): string {
  const groups = Array.from(
    { length: IPV6_GROUPS },
    (_, index) => bytes[2 * index] << 8 | bytes[2 * index + 1],
  );
  if (MAPPED_PREFIX.every((group, index) => groups[index] === group)) {
    return `::ffff:${formatIpv4(bytes.subarray(12))}`;
  }
  const [start, length] = longestZeros(groups);
  const hex = (part: number[]) => part.map((group) => group.toString(16)).join(":");
  if (length < 2) return hex(groups);
  return `${hex(groups.slice(0, start))}::${hex(groups.slice(start + length))}`;
}

/** The first of the longest runs of zeros, and its length. */
function longestZeros(groups: readonly number[]): [start: number, length: number] {
  let best: [number, number] = [0, 0];
  for (let start = 0; start < groups.length; start++) {
    let end = start;
    while (end < groups.length && groups[end] === 0) end++;
    if (end - start > best[1]) best = [start, end - start];
  }
  return best;
}
