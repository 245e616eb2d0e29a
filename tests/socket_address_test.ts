/** IP literals and socket addresses: against inet_pton and inet_ntop, and against Deno's sockets. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { isIPv4, isIPv6 } from "node:net";
import { formatIpv4, formatIpv6, parseIpv4, parseIpv6 } from "../ffi/ip_address.ts";
import {
  decodeSocketAddress,
  encodeSocketAddress,
  type SocketAddress,
} from "../ffi/socket_address.ts";
import { anyValue, Random } from "./random_values.ts";

const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));
const ROUNDS = 20_000;

const AF_INET = 2, AF_INET6 = 10;

const inet = Deno.dlopen("libc.so.6", {
  // int inet_pton(int family, const char *text, void *bytes)
  inet_pton: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  // const char *inet_ntop(int family, const void *bytes, char *text, socklen_t size)
  inet_ntop: { parameters: ["i32", "buffer", "buffer", "u32"], result: "pointer" },
}).symbols;

function pton(family: number, text: string): Uint8Array | null {
  const bytes = new Uint8Array(family === AF_INET ? 4 : 16);
  return inet.inet_pton(family, new TextEncoder().encode(`${text}\0`), bytes) === 1 ? bytes : null;
}

function ntop(family: number, bytes: Uint8Array<ArrayBuffer>): string {
  const text = new Uint8Array(64);
  assert(inet.inet_ntop(family, bytes, text, text.length) !== null);
  return new TextDecoder().decode(text.subarray(0, text.indexOf(0)));
}

/** Addresses with many zeros, in which `::` has a choice. */
function randomBytes(random: Random, length: number): Uint8Array<ArrayBuffer> {
  const zeros = random.below(4);
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 2) {
    if (random.below(4) < zeros) continue;
    bytes[at] = random.once(3) ? 0 : random.below(256);
    bytes[at + 1] = random.below(256);
  }
  if (random.once(5)) bytes.fill(0, 0, 10).fill(0xff, 10, 12);
  return bytes;
}

/** A literal as it is, in capitals, or with a character changed, taken out or put in. */
function mutate(random: Random, text: string): string {
  const at = random.below(text.length + 1);
  const insert = random.pick(["", ":", "::", ".", "0", "00", "1", "f", "g", " ", "-", "1.2.3.4"]);
  switch (random.below(4)) {
    case 0:
      return text.toUpperCase();
    case 1:
      return text.slice(0, at) + text.slice(at + 1);
    default:
      return text.slice(0, at) + insert + text.slice(at + random.below(2));
  }
}

Deno.test(`parseIpv4, parseIpv6: agree with inet_pton (AIO_TEST_SEED=${SEED})`, () => {
  const random = new Random(SEED);
  let good = 0, bad = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const family = random.pick([AF_INET, AF_INET6]);
    let text = ntop(family, randomBytes(random, family === AF_INET ? 4 : 16));
    for (let changes = random.below(3); changes > 0; changes--) text = mutate(random, text);
    for (const each of [AF_INET, AF_INET6]) {
      const bytes = each === AF_INET ? parseIpv4(text) : parseIpv6(text);
      const expected = pton(each, text);
      assertEquals(bytes, expected, text);
      // What others take for an address we take for one; node's takes zones too.
      assertEquals(bytes !== null, each === AF_INET ? isIPv4(text) : isIPv6(text), text);
      if (expected === null) bad++;
      else good++;
    }
  }
  assert(good > ROUNDS / 4 && bad > ROUNDS / 4, `${good} good, ${bad} bad`);
});

Deno.test(`formatIpv4, formatIpv6: agree with inet_ntop, and are read back (AIO_TEST_SEED=${SEED})`, () => {
  const random = new Random(SEED);
  for (let round = 0; round < ROUNDS; round++) {
    const ipv4 = randomBytes(random, 4);
    assertEquals(formatIpv4(ipv4), ntop(AF_INET, ipv4));
    const ipv6 = randomBytes(random, 16);
    const text = formatIpv6(ipv6);
    assertEquals(parseIpv6(text), ipv6, text);
    // glibc writes addresses of the deprecated form ::192.0.2.1 so, RFC 5952 does not ask for it.
    const compatible = ipv6.subarray(0, 12).every((byte) => byte === 0);
    if (!compatible) assertEquals(text, ntop(AF_INET6, ipv6));
  }
  assertEquals(formatIpv6(new Uint8Array(16)), "::");
  assertEquals(formatIpv6(parseIpv6("::0001")!), "::1");
  assertEquals(formatIpv6(parseIpv6("::192.0.2.1")!), "::c000:201");
});

function roundTrip(address: SocketAddress): SocketAddress {
  const bytes = encodeSocketAddress(address);
  return decodeSocketAddress(bytes, bytes.length);
}

Deno.test(`encodeSocketAddress: decodes to the same address (AIO_TEST_SEED=${SEED})`, () => {
  const random = new Random(SEED);
  const letters = ["a", "/", ".", " ", "ä", "€", "🐢", "\ufeff"];
  for (let round = 0; round < ROUNDS / 10; round++) {
    const port = random.below(65536);
    const ipv4 = { hostname: formatIpv4(randomBytes(random, 4)), port };
    assertEquals(roundTrip(ipv4), ipv4);
    const ipv6 = { hostname: formatIpv6(randomBytes(random, 16)), port };
    assertEquals(roundTrip(ipv6), ipv6);
    const zone = {
      hostname: `fe80::${random.below(9999) + 1}%${random.below(2 ** 32) || 1}`,
      port,
    };
    assertEquals(roundTrip(zone), zone);
    const name = Array.from({ length: random.below(26) + 1 }, () => random.pick(letters)).join("");
    assertEquals(roundTrip({ path: name }), { path: name });
    const abstract = `\0${name}${random.once(2) ? "\0" : ""}`;
    assertEquals(roundTrip({ path: abstract }), { path: abstract });
  }
});

Deno.test("encodeSocketAddress: a path of 107 bytes fits, an abstract name of 108", () => {
  for (const path of ["x".repeat(107), "ä".repeat(53), `\0${"x".repeat(107)}`]) {
    assertEquals(roundTrip({ path }), { path });
  }
  for (
    const [path, limit, length] of [
      ["x".repeat(108), 107, 108],
      ["ä".repeat(54), 107, 108],
      [`\0${"x".repeat(108)}`, 108, 109],
    ] as const
  ) {
    const message = `Cannot use socket path as it is longer than ${limit} bytes: ${length} bytes`;
    assertThrows(() => encodeSocketAddress({ path }), RangeError, message);
  }
});

Deno.test("encodeSocketAddress: refuses what is no address, with its reason", () => {
  const refused: [address: unknown, error: ErrorConstructor, message: string][] = [
    [null, TypeError, "is no object: null"],
    [7, TypeError, "is no object: 7"],
    [{}, TypeError, "hostname is no string: undefined"],
    [{ path: "" }, TypeError, 'it is not a path: ""'],
    [{ path: 7 }, TypeError, "it is not a path: 7"],
    [{ path: "a\0b" }, TypeError, "contains a NUL"],
    [{ path: "\ud800" }, TypeError, "it is not a path"],
    [{ path: "/x", hostname: "::", port: 1 }, TypeError, "both a path and a hostname"],
    [{ hostname: "localhost", port: 1 }, TypeError, 'not an IP address: "localhost"'],
    [{ hostname: "127.1", port: 1 }, TypeError, "not an IP address"],
    [{ hostname: "[::1]", port: 1 }, TypeError, "not an IP address"],
    [{ hostname: "127.0.0.1%1", port: 1 }, TypeError, "not an IP address"],
    [{ hostname: "fe80::1%lo", port: 1 }, TypeError, "zone is not the number of an interface"],
    [{ hostname: "fe80::1%", port: 1 }, TypeError, "zone is not the number"],
    [{ hostname: "fe80::1%4294967296", port: 1 }, TypeError, "zone is not the number"],
    [{ hostname: "2001:db8::1%1", port: 1 }, TypeError, "not link-local"],
    ...[-1, 65536, 1.5, NaN, Infinity, "80", undefined, 80n].map((port) =>
      [{ hostname: "::1", port }, RangeError, "port is not 0 to 65535"] as [
        unknown,
        ErrorConstructor,
        string,
      ]
    ),
  ];
  for (const [address, error, message] of refused) {
    assertThrows(() => encodeSocketAddress(address as SocketAddress), error, message);
  }
});

Deno.test(`encodeSocketAddress: of any value makes an address or an error (AIO_TEST_SEED=${SEED})`, () => {
  const random = new Random(SEED);
  for (let round = 0; round < ROUNDS / 4; round++) {
    const address = random.pick([
      () => anyValue(random),
      () => ({ path: anyValue(random) }),
      () => ({ hostname: anyValue(random), port: anyValue(random) }),
    ])();
    try {
      encodeSocketAddress(address as SocketAddress);
    } catch (error) {
      assert(error instanceof Error, String(error));
    }
  }
});

Deno.test("decodeSocketAddress: what the kernel can hand out beside the usual", () => {
  const unix = (...rest: number[]) => Uint8Array.of(1, 0, ...rest);
  assertEquals(decodeSocketAddress(unix(), 2), { path: "" });
  assertEquals(decodeSocketAddress(new Uint8Array(128), 0), { path: "" });
  // A path in full length has no NUL; what lies behind the length is somebody else's.
  const full = unix(...new Uint8Array(120).fill(0x78));
  assertEquals(decodeSocketAddress(full, 110), { path: "x".repeat(108) });
  assertEquals(decodeSocketAddress(unix(0x2f, 0xff, 0), 5), { path: "/\ufffd" });
  assertEquals(decodeSocketAddress(unix(0, 0x61, 0, 0x62), 5), { path: "\0a\0" });
  assertThrows(
    () => decodeSocketAddress(Uint8Array.of(16, 0, 0, 0), 4),
    TypeError,
    "Cannot read socket address as its family is unknown: 16",
  );
});
