/** Sockets as Web streams: with Deno's own streams and responses, under back pressure, cut short. */
import { assert, assertEquals } from "@std/assert";
import { pattern, rejection } from "./test_files.ts";
import {
  adoptedPair,
  codeOf,
  connectedPair,
  eachLoop,
  goOn,
  isSame,
  joined,
  receiveAll,
} from "./test_sockets.ts";

eachLoop("readable, writable: pipe megabytes through Deno's streams", async (ctx) => {
  const [near, far] = await connectedPair(ctx);
  const bytes = pattern(3e6);
  const echo = far.readable.pipeTo(far.writable);
  const sent = new Blob([bytes]).stream().pipeTo(near.writable);
  const received = new Uint8Array(await new Response(near.readable).arrayBuffer());
  await Promise.all([echo, sent]);
  assert(isSame(received, bytes));
  assert(near.readable === near.readable && near.writable === near.writable);
  await near.close();
  await far.close();
});

eachLoop("readable: as text, and through TextDecoderStream", async (ctx) => {
  const text = "grüße, 世界 ".repeat(20_000);
  for (const decode of [false, true]) {
    const [near, far] = adoptedPair(ctx);
    const sent = ReadableStream.from([text]).pipeThrough(new TextEncoderStream())
      .pipeTo(near.writable);
    const readable = far.readable;
    let received = "";
    if (decode) {
      for await (const part of readable.pipeThrough(new TextDecoderStream())) received += part;
    } else received = await new Response(readable).text();
    await sent;
    assert(received === text);
    await near.close();
    await far.close();
  }
});

eachLoop("readable, writable: a slow reader holds the sender back", async (ctx) => {
  const [near, far] = adoptedPair(ctx);
  const writer = near.writable.getWriter();
  const chunk = pattern(300_000);
  let written = 0;
  const writing = (async () => {
    for (let number = 0; number < 20; number++) {
      await writer.ready;
      await writer.write(chunk);
      written++;
    }
    await writer.close();
  })();
  await goOn(20);
  assert(written < 5, `${written} chunks although nobody reads`);
  const reader = far.readable.getReader();
  const pieces: Uint8Array[] = [];
  for (let result; !(result = await reader.read()).done;) {
    // A chunk is the reader's own, who may give it away.
    pieces.push(
      new Uint8Array(structuredClone(result.value.buffer, { transfer: [result.value.buffer] })),
    );
    if (pieces.length < 5) await goOn(2);
  }
  await writing;
  assert(isSame(joined(pieces), joined(Array(20).fill(chunk))));
  await near.close();
  await far.close();
});

eachLoop("readable: nothing is received before somebody reads", async (ctx) => {
  const [near, far] = adoptedPair(ctx);
  const { readable } = far;
  await near.sendAll(pattern(100));
  await goOn();
  assertEquals(await far.recv(new Uint8Array(10)), 10);
  const reader = readable.getReader();
  assertEquals((await reader.read()).value, pattern(100).slice(10));
  reader.releaseLock();
  await near.close();
  await far.close();
});

eachLoop("readable: cancelled at rest, while it waits, and once it is closed", async (ctx) => {
  for (const make of [connectedPair, adoptedPair]) {
    for (const state of ["at rest", "waiting", "closed", "gone"]) {
      const [near, far] = await make(ctx);
      const reader = near.readable.getReader();
      const reading = state === "waiting" ? reader.read() : null;
      await goOn(1);
      if (state === "closed") await near.close();
      if (state === "gone") await far.close();
      await reader.cancel("enough");
      if (reading !== null) assert((await reading).done);
      await near.close();
      await far.close();
    }
  }
});

eachLoop("readable: fails with what the socket fails with", async (ctx) => {
  const [near, far] = await connectedPair(ctx);
  const reading = near.readable.getReader().read();
  await goOn(1);
  const closing = near.close();
  assertEquals(await codeOf(reading), "ECANCELED");
  await closing;
  assert(await rejection(far.writable.getWriter().write("text" as never)) instanceof TypeError);
  await far.close();
});

eachLoop("writable: closing ends this direction alone", async (ctx) => {
  const [near, far] = await connectedPair(ctx);
  const writer = near.writable.getWriter();
  await writer.write(pattern(10));
  await writer.close();
  assertEquals(await receiveAll(far), pattern(10));
  await far.sendAll(pattern(20));
  far.shutdown("write");
  assertEquals(await receiveAll(near), pattern(20));
  assert(await rejection(writer.write(pattern(1))) instanceof TypeError);
  await near.close();
  await far.close();
});

eachLoop("writable: aborting ends a write whose peer takes nothing", async (ctx) => {
  const [near, far] = adoptedPair(ctx);
  const writer = near.writable.getWriter();
  const writing = rejection(writer.write(new Uint8Array(4 << 20)));
  const next = rejection(writer.write(new Uint8Array(1)));
  await goOn();
  const reason = new Error("enough");
  await writer.abort(reason);
  assertEquals([await writing, await next], [reason, reason]);
  assert((await receiveAll(far)).byteLength < 4 << 20, "and closes the socket");
  assert(await rejection(near.send(new Uint8Array(1))) instanceof TypeError);
  await far.close();
});

eachLoop("writable: a peer that is gone fails the stream", async (ctx) => {
  const [near, far] = adoptedPair(ctx);
  const writer = near.writable.getWriter();
  await far.close();
  const closed = rejection(writer.closed);
  assertEquals(await codeOf(writer.write(new Uint8Array(9))), "EPIPE");
  assertEquals((await closed as { code?: string }).code, "EPIPE");
  await near.close();
});
