/** What a thread leaves behind that Deno drops in the middle: given back, and no hung peer. */
import { assert, assertEquals } from "@std/assert";
import { loadShim } from "../ffi/library.ts";
import { AioContext, EventNotifier } from "../mod.ts";
import { reapThread } from "../src/threads/thread_remains.ts";
import { boardWords, PlaceWord } from "./context_place.ts";
import type { DropOrder, DropReport } from "./dropped_worker.ts";
import { FDMONS } from "./each_fdmon.ts";
import { FILE, held } from "./io_thread_kit.ts";
import { rejection } from "./peer_kit.ts";

const shim = loadShim();
/** Longest that a thread may take to be gone. */
const GONE_MS = 10_000;

/** What there is more of than before, and how much. */
function more(before: Record<string, number>): [string, number][] {
  return Object.entries(held()).map(([kind, count]): [string, number] => [
    kind,
    count - (before[kind] ?? 0),
  ]).filter(([, count]) => count > 0);
}

async function until(done: () => boolean, what: string): Promise<void> {
  const endMs = performance.now() + GONE_MS;
  while (!done()) {
    assert(performance.now() < endMs, what);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

class Dropped {
  readonly worker: Worker = new Worker(new URL("./dropped_worker.ts", import.meta.url), {
    type: "module",
  });

  constructor() {
    this.worker.onerror = (event) => event.preventDefault();
  }

  told<Message>(): Promise<Message> {
    return new Promise((resolve) => this.worker.onmessage = ({ data }) => resolve(data));
  }

  async begin(order: DropOrder): Promise<DropReport> {
    await this.told();
    this.worker.postMessage(order);
    return await this.told<DropReport>();
  }
}

let isWarm = false;

/** A thread is begun and ended before anything is counted: Deno keeps some for the next. */
async function warmUp(): Promise<void> {
  if (isWarm) return;
  isWarm = true;
  const dropped = new Dropped();
  const { thread } = await dropped.begin({ fdmon: "poll", state: "idle", path: FILE });
  dropped.worker.terminate();
  await until(() => shim.aio_thread_lives(thread) === 0, "the thread has not ended");
  reapThread({ shim }, thread);
}

for (const fdmon of FDMONS) {
  for (const state of ["idle", "attached", "busy", "files", "blocked"] as const) {
    Deno.test(`reapThread: gives all back that a dropped thread had, ${state} (${fdmon})`, async () => {
      await warmUp();
      using ctx = new AioContext();
      ctx.attach();
      await new Promise((resolve) => setTimeout(resolve, 1)); // It has a waiting thread from now on.
      const before = held();
      const dropped = new Dropped();
      const { thread, remote, closed } = await dropped.begin({ fdmon, state, path: FILE });
      using peer = ctx.peer(remote);
      const call = rejection(peer.call("never"));
      // Whoever has the number now, which need not be this project, is not to lose it.
      const strangers: number[] = [];
      do strangers.push(shim.aio_eventfd()); while (strangers.at(-1)! < closed);
      if (state === "blocked") {
        peer.send("block");
        dropped.worker.terminate(); // Which ends no thread that is blocked, until it is woken.
        await until(() => {
          ctx.peer(remote)[Symbol.dispose](); // Wakes it.
          return shim.aio_thread_lives(thread) === 0;
        }, "the thread has not ended");
      } else {
        // One that throws is shown on the terminal, so not all do.
        if (state !== "idle") dropped.worker.terminate();
        else dropped.worker.postMessage(fdmon === "io_uring" ? "throw" : "close");
        await until(() => shim.aio_thread_lives(thread) === 0, "the thread has not ended");
      }
      assert(more(before).length > 0, "nothing was left behind");
      reapThread({ shim }, thread);
      assert(await call instanceof TypeError, "a hung peer");
      assertEquals(boardWords[remote.place + PlaceWord.owner], 0, "its place is free");
      for (const fd of strangers) {
        assertEquals(shim.aio_eventfd_signal(fd), 8, `fd ${fd}, ${closed} was given up`);
        shim.aio_close(fd);
      }
      await until(() => more(before).length === 0, `left: ${more(before).join(" ")}`);
      reapThread({ shim }, thread); // There is nothing more to be done.
      assertEquals(more(before), []);
    });
  }
}

Deno.test("reapThread: leaves alone what other threads have", async () => {
  using ctx = new AioContext();
  using notifier = new EventNotifier();
  const before = held();
  const dropped = new Dropped();
  const { thread, remote } = await dropped.begin({ fdmon: "epoll", state: "busy", path: FILE });
  dropped.worker.terminate();
  await until(() => shim.aio_thread_lives(thread) === 0, "the thread has not ended");
  reapThread({ shim }, thread);
  ctx.setFdHandler(notifier.fd, { ioRead: () => void notifier.testAndClear() });
  notifier.set();
  assert(ctx.poll(true));
  ctx.setFdHandler(notifier.fd, null);
  using late = ctx.peer(remote);
  assert(await rejection(late.call("never")) instanceof TypeError);
  for (const [kind, count] of Object.entries(before)) {
    assert(held()[kind] >= count || /^\/|pipe/.test(kind), kind);
  }
});
