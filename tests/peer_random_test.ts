/** Contexts that call each other at random while they are replaced, on this thread and from others. */
import { assert, assertEquals } from "@std/assert";
import type { AioContext, Peer, RemoteContext } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { type Any, linksInUse, pollAll, SEED } from "./peer_kit.ts";
import { pollUntil } from "./poll_until.ts";
import type { ConnectOrder } from "./peer_connect_worker.ts";
import { Random } from "./random_values.ts";

/** Contexts that call each other at random, and are replaced, against what they should have seen. */
eachFdmon(
  "Peer: random messages between five contexts arrive as a plain model says",
  async (make) => {
    const random = new Random(SEED);
    const members = Array.from({ length: 5 }, () => newMember(make));
    const alive = () => members.map(({ ctx }) => ctx);
    for (let step = 0; step < 3000; step++) {
      const from = random.pick(members), to = random.pick(members);
      if (from === to) continue;
      const link = from.links.get(to) ?? connect(from, to);
      const value = random.pick([step, -step, `text ${step}`, [step], new Uint8Array(20_000)]);
      switch (random.below(60)) {
        case 0:
          link.peer[Symbol.dispose]();
          from.links.delete(to);
          break;
        case 1: {
          to.ctx[Symbol.dispose]();
          members[members.indexOf(to)] = newMember(make);
          for (const member of members) member.links.delete(to);
          break;
        }
        default:
          if (random.once(3)) {
            if (link.peer.send("take", link.id, link.sent, value)) link.sent++;
          } else {
            const number = link.sent++;
            link.peer.call("take", link.id, number, value).then((got) => {
              assertEquals(got, number, `AIO_TEST_SEED=${SEED}`);
              // Results come in the order of the calls as well.
              assert(number > link.answered, `AIO_TEST_SEED=${SEED}`);
              link.answered = number;
            }, () => {});
          }
      }
      while (random.once(3)) random.pick(members).ctx.poll(false);
      if (step % 50 === 0) await Promise.resolve();
    }
    const arrived = () =>
      members.every((from) =>
        [...from.links].every(([to, link]) => (to.taken.get(link.id) ?? 0) === link.sent)
      );
    await pollAll(alive(), arrived);
    await pollAll(
      alive(),
      () =>
        members.every((from) =>
          [...from.links.values()].every(({ peer }) => peer.outstanding === 0)
        ),
    );
    for (const ctx of alive()) ctx[Symbol.dispose]();
    assertEquals(linksInUse(), 0, `AIO_TEST_SEED=${SEED}`);
  },
);

interface Member {
  readonly ctx: AioContext;
  readonly remote: RemoteContext<Any>;
  readonly links: Map<Member, TestLink>;
  /** Messages that came, of each link. */
  readonly taken: Map<number, number>;
}

interface TestLink {
  readonly peer: Peer<Any>;
  readonly id: number;
  sent: number;
  answered: number;
}

let ids = 0;

function newMember(make: () => AioContext): Member {
  const ctx = make(), taken = new Map<number, number>();
  const remote = ctx.expose({
    take(id: number, number: number, value: unknown) {
      assertEquals(number, taken.get(id) ?? 0, `AIO_TEST_SEED=${SEED}`);
      if (typeof value === "number") assert(Math.abs(value) < 3000);
      else if (value instanceof Uint8Array) assertEquals(value.length, 20_000);
      taken.set(id, number + 1);
      return number;
    },
  });
  return { ctx, remote: remote as RemoteContext as RemoteContext<Any>, links: new Map(), taken };
}

function connect(from: Member, to: Member): TestLink {
  const link = { peer: from.ctx.peer(to.remote), id: ++ids, sent: 0, answered: -1 };
  from.links.set(to, link);
  return link;
}

const SOAK = Number(Deno.env.get("AIO_SOAK") ?? 0);

eachFdmon(
  "ctx.peer: from other threads while the context is disposed, no call is left",
  async (make, fdmon) => {
    const url = new URL("./peer_connect_worker.ts", import.meta.url);
    const random = new Random(SEED), rounds = SOAK > 0 ? 5000 : fdmon === "io_uring" ? 60 : 300;
    const shared = new Int32Array(new SharedArrayBuffer(64));
    const workers = Array.from({ length: 2 }, () => new Worker(url, { type: "module" }));
    const told = (worker: Worker) =>
      new Promise<string>((resolve, reject) => {
        worker.onmessage = ({ data }) => resolve(data);
        worker.onerror = (event) => reject(new Error(event.message));
      });
    await Promise.all(workers.map(told));
    using probe = make();
    const { board } = probe.remote();
    for (const worker of workers) {
      worker.postMessage({ shared, fdmon, board } satisfies ConnectOrder);
      await told(worker); // It looks for contexts from now on.
    }
    const ends = workers.map(told);
    let calls = 0;
    for (let round = 1; round <= rounds; round++) {
      const ctx = make();
      ctx.expose({ f: () => calls++ });
      const { place, generation } = ctx.remote();
      shared[1] = place;
      shared[2] = generation;
      Atomics.store(shared, 0, round); // Those threads begin to connect and call.
      const before = calls;
      // In the middle of connecting, or of calling.
      if (random.once(2)) pollUntil(ctx, () => calls !== before);
      const spins = random.below(40);
      for (let spin = 0; spin < spins; spin++) ctx.poll(false);
      ctx[Symbol.dispose]();
      if (round % 20 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    Atomics.store(shared, 0, -1);
    assertEquals(await Promise.all(ends), ["settled", "settled"], `AIO_TEST_SEED=${SEED}`);
    for (const worker of workers) worker.terminate();
    assertEquals(linksInUse(), 0, `AIO_TEST_SEED=${SEED}`);
    assert(calls > 0);
  },
);
