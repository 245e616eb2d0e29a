/** Requests that wait for one fd, where readiness stands in for a ring: who goes on, and when. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { type AddedRequest, type AioContext, AioError, type Sqe } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { libc, makePair } from "./libc.ts";
import { countingFds } from "./open_files.ts";

const IN = 1, PRI = 2, OUT = 4;
const ECANCELED = 125;

/** A pair of sockets, a request at a time on the first of them, and what came of them. */
class Fixture {
  readonly results: (number | null)[] = [];
  readonly ctx: AioContext;
  readonly near: number;
  readonly far: number;

  constructor(ctx: AioContext) {
    this.ctx = ctx;
    [this.near, this.far] = makePair("socket");
  }

  add(prepare: (sqe: Sqe) => void): AddedRequest {
    const index = this.results.push(null) - 1;
    return this.ctx.addSqe(prepare, (result) => this.results[index] = result);
  }

  receive(): { request: AddedRequest; byte: Uint8Array } {
    const byte = this.ctx.buffers.allocate(1);
    return { request: this.add((sqe) => sqe.recv(this.near, byte)), byte };
  }

  /** A few iterations, which would go on for ever if it were for what waits. */
  poll(iterations = 5): (number | null)[] {
    for (let iteration = 0; iteration < iterations; iteration++) this.ctx.poll(false);
    return this.results;
  }

  send(...bytes: number[]): void {
    assertEquals(
      Number(libc.write(this.far, Uint8Array.from(bytes), BigInt(bytes.length))),
      bytes.length,
    );
  }
}

function onEmulation(name: string, test: (fixture: Fixture) => void): void {
  eachFdmon(name, (makeContext) =>
    countingFds(() => {
      using ctx = makeContext();
      const fixture = new Fixture(ctx);
      test(fixture);
      libc.close(fixture.near);
      libc.close(fixture.far);
    })(), ["epoll", "poll"]);
}

onEmulation("FdWaiters: as many receives go on as there is data for, in order", (fixture) => {
  const received = [1, 2, 3, 4].map(() => fixture.receive());
  assertEquals(fixture.poll(), [null, null, null, null]);
  fixture.send(1, 2);
  // With one look at the fd; what is complete is told in the next iteration.
  assertEquals(fixture.poll(2), [1, 1, null, null]);
  // One that is made now waits behind the others, although there is data.
  fixture.send(3, 4, 5);
  received.push(fixture.receive());
  assertEquals(fixture.poll(), [1, 1, 1, 1, 1]);
  assertEquals(received.map(({ byte }) => byte[0]), [1, 2, 3, 4, 5]);
});

onEmulation("FdWaiters: a poll waits behind nobody and keeps nobody waiting", (fixture) => {
  fixture.receive();
  fixture.add((sqe) => sqe.pollAdd(fixture.near, IN | OUT));
  assertEquals(fixture.poll(), [null, OUT]);
  fixture.add((sqe) => sqe.pollAdd(fixture.near, IN));
  fixture.add((sqe) => sqe.pollAdd(fixture.near, IN));
  fixture.receive();
  assertEquals(fixture.poll(), [null, OUT, null, null, null]);
  const { systemCalls } = fixture.ctx.stats();
  fixture.poll();
  assert(fixture.ctx.stats().systemCalls - systemCalls <= 5, "nothing but the waits");
  fixture.send(7);
  assertEquals(fixture.poll(), [1, OUT, IN, IN, null]);
  fixture.send(7);
  assertEquals(fixture.poll(), [1, OUT, IN, IN, 1]);
});

onEmulation("FdWaiters: a poll that readiness for neither direction ends is refused", (fixture) => {
  for (const events of [0, PRI]) {
    const add = () => fixture.add((sqe) => sqe.pollAdd(fixture.near, events));
    assertEquals((assertThrows(add, AioError) as AioError).code, "EOPNOTSUPP");
  }
});

onEmulation("FdWaiters: one that is cancelled lets the next one go on", (fixture) => {
  const [first, second] = [fixture.receive(), fixture.receive()];
  fixture.add((sqe) => sqe.pollAdd(fixture.near, IN)).cancel();
  first.request.cancel();
  assertEquals(fixture.poll(), [-ECANCELED, null, -ECANCELED]);
  fixture.send(9);
  assertEquals(fixture.poll()[1], 1);
  assertEquals(second.byte[0], 9);
});

onEmulation("FdWaiters: closing the fd with a request ends what waits for it", (fixture) => {
  const copy = libc.dup(fixture.near);
  const byte = fixture.ctx.buffers.allocate(1);
  fixture.add((sqe) => sqe.recv(copy, byte));
  fixture.add((sqe) => sqe.pollAdd(copy, IN));
  fixture.poll();
  fixture.add((sqe) => sqe.close(copy));
  while (fixture.results.includes(null)) fixture.ctx.poll(true);
  assertEquals(fixture.results, [-ECANCELED, -ECANCELED, 0]);
});
