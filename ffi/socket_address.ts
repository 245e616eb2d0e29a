/**
 * Socket addresses in and out of the bytes of a sockaddr.
 *
 * Three families: unix paths and abstract names, IPv4 and IPv6 literals. Looking up host names is
 * left to others, so a name is refused here. What the kernel hands out is always told, if need be
 * with less: bytes of a path that are no UTF-8 come as U+FFFD.
 */
import { formatIpv4, formatIpv6, parseIpv4, parseIpv6 } from "./ip_address.ts";
import { SocketLayout } from "./layout.ts";

const UN = SocketLayout.sockaddr_un, IN = SocketLayout.sockaddr_in, IN6 = SocketLayout.sockaddr_in6;

/** Families of addresses, and so of sockets. */
export const SocketDomain = { unix: 1, inet: 2, inet6: 10 } as const;

/** Enough for every address here, and for the one byte more that a path in full length takes. */
export const ADDRESS_BYTES_MAX = 128;

/** sun_path; a path needs one byte of it for the NUL at its end, an abstract name does not. */
const PATH_BYTES = UN.sizeof - UN.sun_path;

const UINT32_MAX = 2 ** 32 - 1;

/** A unix socket. */
export interface UnixAddress {
  /** A path, or an abstract name behind a leading `"\0"`; empty where a socket has no name. */
  readonly path: string;
}

/** A TCP or UDP socket. */
export interface IpAddress {
  /** An IPv4 or IPv6 literal; that of a link-local address may end in `%` and its interface's number. */
  readonly hostname: string;
  /** 0 to 65535. */
  readonly port: number;
}

/** Where a socket is. */
export type SocketAddress = UnixAddress | IpAddress;

/**
 * The bytes of an address, as bind and connect want them.
 *
 * @throws {TypeError} when it is no address
 * @throws {RangeError} when a path is too long or a port is none
 */
export function encodeSocketAddress(address: SocketAddress): Uint8Array<ArrayBuffer> {
  if (typeof address !== "object" || address === null) {
    throw new TypeError(`Cannot use socket address as it is no object: ${String(address)}`);
  }
  // Each read once, as it may be a getter.
  const { path, hostname, port } = address as Partial<UnixAddress & IpAddress>;
  if (path !== undefined && hostname !== undefined) {
    throw new TypeError("Cannot use socket address as it has both a path and a hostname");
  }
  return path === undefined ? encodeIp(hostname, port) : encodePath(path);
}

function encodePath(path: unknown): Uint8Array<ArrayBuffer> {
  if (typeof path !== "string" || path === "" || !path.isWellFormed()) {
    throw new TypeError(`Cannot use socket path as it is not a path: ${Deno.inspect(path)}`);
  }
  const isAbstract = path.startsWith("\0");
  if (!isAbstract && path.includes("\0")) {
    throw new TypeError(`Cannot use socket path as it contains a NUL: ${JSON.stringify(path)}`);
  }
  const bytes = new TextEncoder().encode(path);
  const capacity = isAbstract ? PATH_BYTES : PATH_BYTES - 1;
  if (bytes.length > capacity) {
    throw new RangeError(
      `Cannot use socket path as it is longer than ${capacity} bytes: ` +
        `${bytes.length} bytes, ${JSON.stringify(path)}`,
    );
  }
  // The length of an abstract name ends it; a path has its NUL.
  const out = new Uint8Array(UN.sun_path + bytes.length + (isAbstract ? 0 : 1));
  storeFamily(out, SocketDomain.unix);
  out.set(bytes, UN.sun_path);
  return out;
}

function encodeIp(hostname: unknown, port: unknown): Uint8Array<ArrayBuffer> {
  if (typeof hostname !== "string") {
    throw new TypeError(
      `Cannot use socket address as its hostname is no string: ${Deno.inspect(hostname)}`,
    );
  }
  if (typeof port !== "number" || !Number.isInteger(port) || port < 0 || port > 65535) {
    throw new RangeError(
      `Cannot use socket address as its port is not 0 to 65535: ${Deno.inspect(port)}`,
    );
  }
  const ipv4 = parseIpv4(hostname);
  if (ipv4 !== null) {
    const out = new Uint8Array(IN.sizeof);
    storeFamily(out, SocketDomain.inet);
    new DataView(out.buffer).setUint16(IN.sin_port, port);
    out.set(ipv4, IN.sin_addr);
    return out;
  }
  const percent = hostname.indexOf("%");
  const ipv6 = parseIpv6(percent === -1 ? hostname : hostname.slice(0, percent));
  if (ipv6 === null) {
    throw new TypeError(
      `Cannot use socket address as its hostname is not an IP address: ${JSON.stringify(hostname)}`,
    );
  }
  const out = new Uint8Array(IN6.sizeof);
  storeFamily(out, SocketDomain.inet6);
  new DataView(out.buffer).setUint16(IN6.sin6_port, port);
  out.set(ipv6, IN6.sin6_addr);
  const zone = percent === -1 ? 0 : parseZone(hostname, percent, ipv6);
  new DataView(out.buffer).setUint32(IN6.sin6_scope_id, zone, true);
  return out;
}

/** The interface of a link-local address. */
function parseZone(hostname: string, percent: number, ipv6: Uint8Array): number {
  const zone = hostname.slice(percent + 1);
  if (!/^[1-9][0-9]{0,9}$/.test(zone) || Number(zone) > UINT32_MAX) {
    throw new TypeError(
      "Cannot use socket address as its zone is not the number of an interface (see `ip link`): " +
        JSON.stringify(hostname),
    );
  }
  if (!isLinkLocal(ipv6)) {
    throw new TypeError(
      `Cannot use socket address as it has a zone and is not link-local: ${
        JSON.stringify(hostname)
      }`,
    );
  }
  return Number(zone);
}

/** fe80::/10, and multicast to a link or an interface: elsewhere the kernel ignores the zone. */
function isLinkLocal(ipv6: Uint8Array): boolean {
  if (ipv6[0] === 0xff) return (ipv6[1] & 0xf) === 1 || (ipv6[1] & 0xf) === 2;
  return ipv6[0] === 0xfe && (ipv6[1] & 0xc0) === 0x80;
}

function storeFamily(out: Uint8Array<ArrayBuffer>, domain: number): void {
  new DataView(out.buffer).setUint16(0, domain, true);
}

/**
 * The address in bytes that the kernel has filled in.
 *
 * @param length what the kernel says the address takes
 * @throws {TypeError} when it is of another family
 */
export function decodeSocketAddress(bytes: Uint8Array, length: number): SocketAddress {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  // A unix socket's peer without a name may be told by nothing at all.
  const domain = length < 2 ? SocketDomain.unix : view.getUint16(0, true);
  switch (domain) {
    case SocketDomain.unix:
      return { path: decodePath(bytes.subarray(UN.sun_path, Math.max(length, UN.sun_path))) };
    case SocketDomain.inet:
      return {
        hostname: formatIpv4(bytes.subarray(IN.sin_addr)),
        port: view.getUint16(IN.sin_port),
      };
    case SocketDomain.inet6: {
      const zone = view.getUint32(IN6.sin6_scope_id, true);
      const text = formatIpv6(bytes.subarray(IN6.sin6_addr));
      return {
        hostname: zone === 0 ? text : `${text}%${zone}`,
        port: view.getUint16(IN6.sin6_port),
      };
    }
    default:
      throw new TypeError(`Cannot read socket address as its family is unknown: ${domain}`);
  }
}

/** An address in words. */
export function describeSocketAddress(address: SocketAddress): string {
  if ("path" in address && address.path !== undefined) return JSON.stringify(address.path);
  const { hostname, port } = address as IpAddress;
  return hostname.includes(":") ? `[${hostname}]:${port}` : `${hostname}:${port}`;
}

function decodePath(bytes: Uint8Array): string {
  const end = bytes[0] === 0 ? bytes.length : bytes.indexOf(0);
  return new TextDecoder("utf-8", { ignoreBOM: true })
    .decode(end === -1 ? bytes : bytes.subarray(0, end));
}
