/** Rings in shared memory and the links they belong to: what fits, who holds them, who gets them next. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { loadShim } from "../ffi/library.ts";
import {
  type Link,
  LINK_RING,
  Links,
  LinkSide,
  MESSAGE_HEAD,
  MESSAGE_MAX,
  type MessageReader,
  MessageWord,
  type MessageWriter,
  type PlaceOfContext,
} from "../ffi/link.ts";
import { AioContext, AioError } from "../mod.ts";
import { boardWords, PlaceWord } from "./context_place.ts";
import type { LateWaker } from "./late_waker_worker.ts";
import { Random } from "./random_values.ts";

const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));
const CLIENT: PlaceOfContext = { place: 1 << 20, generation: 1 };
const SERVER: PlaceOfContext = { place: 1 << 20, generation: 2 };
const shim = loadShim();

/** A link of nobody's contexts, let go at the end. */
class TestLink implements Disposable {
  readonly links = new Links(shim);
  readonly link: Link = this.links.claim(CLIENT, SERVER);
  readonly number = this.link.number;

  [Symbol.dispose](): void {
    for (const side of [LinkSide.client, LinkSide.server]) {
      this.links.release(this.link, side, this.number);
    }
  }
}

/** Publishes a message with a number on it; false where the ring is full. */
function write(writer: MessageWriter, bytes: number, stamp: number): boolean {
  const at = writer.reserve(bytes);
  if (at === -1) return false;
  const word = at / 4, { i32 } = writer.views;
  i32[word + MessageWord.length] = bytes;
  i32[word + MessageWord.kind] = 1;
  i32[word + MessageWord.call] = stamp;
  // Its other end, which must be inside the ring as well.
  if (bytes > MESSAGE_HEAD) i32[word + bytes / 4 - 1] = ~stamp;
  writer.publish(bytes);
  return true;
}

/** Takes a message with a number on it; false where there is none. */
function read(reader: MessageReader, stamp: number): boolean {
  const at = reader.next();
  if (at === -1) return false;
  const word = at / 4, { i32 } = reader.views, bytes = i32[word + MessageWord.length];
  assertEquals(i32[word + MessageWord.call], stamp, `AIO_TEST_SEED=${SEED}`);
  if (bytes > MESSAGE_HEAD) assertEquals(i32[word + bytes / 4 - 1], ~stamp);
  reader.take(at);
  return true;
}

Deno.test("MessageWriter: positions wrap at 2^32, and messages of all sizes go round", () => {
  using test = new TestLink();
  const writer = test.link.writer(LinkSide.client), reader = test.link.reader(LinkSide.server);
  const random = new Random(SEED);
  let written = 0, taken = 0, bytes = 0;
  while (bytes < 2 ** 32 + 2 ** 24) {
    // Long ones as far as the places that are looked at; all sizes around 0, 2^31 and 2^32.
    const near = Math.abs(bytes - 2 ** 31) < 2 ** 22 || Math.abs(bytes - 2 ** 32) < 2 ** 22 ||
      bytes < 2 ** 22;
    const length = near ? MESSAGE_HEAD + random.below(MESSAGE_MAX / 8 - 1) * 8 : MESSAGE_MAX;
    if (write(writer, length, written)) {
      written++;
      bytes += length;
    } else {
      reader.free();
      if (!write(writer, length, written)) assert(read(reader, taken++), `AIO_TEST_SEED=${SEED}`);
      else {
        written++;
        bytes += length;
      }
    }
    if (random.once(3)) { while (random.below(4) !== 0 && taken < written) read(reader, taken++); }
  }
  while (read(reader, taken)) taken++;
  assertEquals(taken, written);
});

Deno.test("MessageWriter: reserve says when the ring is full, and the reader whom to tell", () => {
  using test = new TestLink();
  const writer = test.link.writer(LinkSide.server), reader = test.link.reader(LinkSide.client);
  let count = 0;
  while (write(writer, 24, count)) count++;
  // Not one byte is lost: what is left is less than a message.
  assertEquals(count, Math.floor(LINK_RING / 24));
  assertEquals(reader.free(), false, "nobody waits");
  writer.askForRoom();
  assertEquals(writer.reserve(24), -1);
  assert(read(reader, 0));
  assertEquals(writer.reserve(24), -1, "room is given by free");
  assert(reader.free());
  assertEquals(reader.free(), false, "told once");
  for (let next = 1; next < count; next++) assert(read(reader, next));
  assertEquals([reader.hasNext, reader.next()], [false, -1]);
  reader.free();
  // Two of the longest fit wherever the first begins.
  for (let round = 0; round < 100; round++) {
    assert(write(writer, MESSAGE_HEAD + round * 8, 0));
    assert(write(writer, MESSAGE_MAX, 1) && write(writer, MESSAGE_MAX, 2));
    for (const stamp of [0, 1, 2]) assert(read(reader, stamp));
    reader.free();
  }
});

Deno.test("Links: each side lets go once, and only of its own pair", () => {
  const links = new Links(shim);
  const link = links.claim(CLIENT, SERVER), { number } = link;
  assertEquals(link.sideOf(CLIENT), LinkSide.client);
  assertEquals(link.sideOf(SERVER), LinkSide.server);
  assertEquals(link.sideOf({ ...SERVER, generation: 3 }), 0);
  assertEquals([link.partner(LinkSide.client), link.partner(LinkSide.server)], [SERVER, CLIENT]);
  assertEquals(link.letGo(LinkSide.server, number + 1), false);
  assert(link.isHeldBy(LinkSide.server, number));
  assertEquals(link.letGo(LinkSide.server, number), false, "the client holds it");
  assertEquals(link.letGo(LinkSide.server, number), false);
  assertEquals(link.sideOf(SERVER), 0);
  assertEquals(link.claim(CLIENT, SERVER), false, "the client holds it");
  links.release(link, LinkSide.client, number);
  assert(link.claim(SERVER, CLIENT));
  assert(link.number !== number);
  // A late hand of the pair before.
  for (const side of [LinkSide.client, LinkSide.server]) {
    links.release(link, side, number);
    assert(link.isHeldBy(side, link.number));
  }
  for (const side of [LinkSide.client, LinkSide.server]) links.release(link, side, link.number);
});

Deno.test("Links: nobody has a link before the memory of its messages is given back", () => {
  const others = new Links(shim), taken: Link[] = [];
  let releases = 0;
  const release = (link: number) => {
    releases++;
    // Another thread at this very moment.
    assertEquals(others.at(link).claim(CLIENT, SERVER), false);
    return shim.aio_link_release(link);
  };
  const links = new Links({ ...shim, aio_link_release: release });
  for (let count = 0; count < 10; count++) taken.push(links.claim(CLIENT, SERVER));
  for (const link of taken) {
    const { number } = link;
    write(link.writer(LinkSide.client), 64, 1);
    links.release(link, LinkSide.client, number);
    links.release(link, LinkSide.server, number);
    assertEquals(link.writer(LinkSide.client).views.i32[MessageWord.length], 0, "given back");
  }
  assertEquals(releases, 10);
});

Deno.test("Links: all taken is an error that says so, and one let go can be had again", () => {
  const links = new Links(shim), taken: Link[] = [];
  try {
    assertThrows(
      () => {
        for (;;) taken.push(links.claim(CLIENT, SERVER));
      },
      AioError,
      "Cannot link contexts as claim failed: ENOSPC (this process has 992 links already: close",
    );
    const [link] = taken.splice(500, 1), { number } = link;
    for (const side of [LinkSide.client, LinkSide.server]) links.release(link, side, number);
    taken.push(links.claim(CLIENT, SERVER));
    assertEquals(taken.at(-1)!.index, link.index);
  } finally {
    for (const link of taken) {
      const { number } = link;
      for (const side of [LinkSide.client, LinkSide.server]) links.release(link, side, number);
    }
  }
});

Deno.test("dispose: finds the link of a thread that was just telling it about that", async () => {
  const url = new URL("./late_waker_worker.ts", import.meta.url);
  const worker = new Worker(url, { type: "module" });
  const told = () =>
    new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = (event) => reject(event.error);
    });
  await told();
  using client = new AioContext();
  for (const exposes of [false, true]) {
    const ctx = new AioContext();
    if (exposes) ctx.expose({ f() {} });
    const { place, generation } = ctx.remote();
    const links = new Links(shim);
    const link = links.claim(client.remote(), { place, generation }), { number } = link;
    const entered = new Int32Array(new SharedArrayBuffer(4));
    const over = told();
    worker.postMessage({ entered, place, link: link.index } satisfies LateWaker);
    await Atomics.waitAsync(entered, 0, 0).value;
    assertEquals(boardWords[place + PlaceWord.users], 1);
    ctx[Symbol.dispose](); // Upon which the worker tells it of the link.
    await over;
    assertEquals(link.isHeldBy(LinkSide.server, number), false);
    links.release(link, LinkSide.client, number);
  }
  worker.terminate();
});
