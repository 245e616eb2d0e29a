/** Errors of IOThreads, of every place, and who is told of them; beginnings that are given up. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { type AioError, IOThread } from "../mod.ts";
import { leavingNothing, MODULE, moduleOf, start } from "./io_thread_kit.ts";
import type { ThreadData } from "./io_thread_module.ts";
import { rejection } from "./peer_kit.ts";

/** Errors of each place: what begins it, and what is to be told. */
const FAILURES: readonly (readonly [name: string, begin: ThreadData["begin"] | string, RegExp])[] =
  [
    ["the module is missing", "file:///nowhere/at/all.ts", /Module not found.*nowhere/],
    ["its text is no program", moduleOf("export default {{"), /SyntaxError|expected|Unexpected/i],
    [
      "the module throws",
      moduleOf("throw new RangeError('of a module')"),
      /^RangeError: of a module/,
    ],
    ["no default function", moduleOf("export const a = 1"), /^TypeError: .*no default function/],
    [
      "its default is no function",
      moduleOf("export default 5"),
      /^TypeError: .*no default function/,
    ],
    [
      "the module exports error",
      moduleOf("export const error = 1"),
      /^TypeError: .*no default function/,
    ],
    [
      "what it exposes is no function",
      moduleOf("export default () => ({ a: 1 })"),
      /Cannot expose a as/,
    ],
    [
      "what it exposes is taken",
      moduleOf("export default () => ({ 'IOThread.stop'() {} })"),
      /already/,
    ],
    ["its function throws", "throw", /^RangeError: thrown in the thread/],
    ["its function rejects", "reject", /^RangeError: rejected in the thread/],
    ["an AioError", "aioError", /^AioError: Cannot begin as open failed: ENOENT/],
    ["it throws what cannot be copied", moduleOf("export default () => { throw () => 7 }"), /7/],
    ["it throws nothing", moduleOf("export default () => { throw undefined }"), /undefined/],
    [
      "a promise is rejected at its beginning",
      moduleOf("Promise.reject(new RangeError('r')); await new Promise(() => {})"),
      /^RangeError: r/,
    ],
    [
      "an error is uncaught meanwhile",
      moduleOf(`export default () => {
    queueMicrotask(() => { throw new RangeError("u") });
    return new Promise(() => {});
  }`),
      /^RangeError: u/,
    ],
    ["it closes itself", moduleOf("self.close(); await new Promise(() => {})"), /ended itself: t/],
    ["it exits", moduleOf("Deno.exit(1)"), /ended itself: t/],
    [
      "it closes itself later",
      moduleOf(`export default () => {
    self.close();
    return new Promise(() => {});
  }`),
      /ended itself: t/,
    ],
    ["it exits later", moduleOf("export default () => { Deno.exit(1) }"), /ended itself: t/],
  ];

for (const [name, begin, told] of FAILURES) {
  Deno.test(
    `IOThread.start: rejects as ${name}`,
    leavingNothing(async () => {
      const isModule = begin!.includes(":");
      const module = isModule ? begin! : MODULE;
      const data = isModule ? undefined : { begin };
      const error = await rejection(IOThread.start(module, { name: "t", data }));
      assert(told.test(String(error)), Deno.inspect(error));
      if (begin === "aioError") assertEquals((error as AioError).code, "ENOENT");
    }),
  );
}

/** What fails in a thread that runs, and where that is told. */
for (const how of ["throw", "uncaught", "unhandled", "exit", "close"]) {
  for (const call of ["call", "send", "later"] as const) {
    Deno.test(
      `IOThread.join: rejects after ${how} in a function (${call})`,
      leavingNothing(async () => {
        const thread = await start({ name: "t" });
        const never = rejection(thread.call("never"));
        const ended = rejection(thread.join());
        if (call === "send") thread.send("fail", how);
        else if (call === "later") thread.send("failLater", how);
        else {
          const result = thread.call("fail", how).catch((error) => error);
          if (how === "throw") {
            // Errors of calls are the callers'; the thread goes on.
            assertEquals(`${await result}`, "RangeError: thrown in the thread");
            assertEquals(await thread.call("add", 1, 2), 3);
            await assertRejects(() => thread.call("failLater", how), RangeError, "thrown");
            thread.send("fail", how);
          } else await result;
        }
        const error = await ended;
        const itself = how === "exit" || how === "close";
        assert(
          itself
            ? error.message === "The IOThread ended itself: t"
            : error instanceof RangeError && error.message.endsWith("in the thread"),
          `${error}`,
        );
        assert(await never instanceof TypeError);
        await assertRejects(() => thread.stop(), Error, error.message);
        await assertRejects(() => thread.terminate(), Error, error.message);
        assertEquals(thread.running, false);
      }),
    );
  }
}

Deno.test(
  "IOThread.start: a signal ends it in every state of its beginning",
  leavingNothing(async () => {
    const pending = moduleOf("await new Promise(() => {}); export default () => ({})");
    const reason = new RangeError("enough");
    for (const how of ["before", "at once", "imported", "pending import", "pending"] as const) {
      const controller = new AbortController();
      if (how === "before") controller.abort(reason);
      const module = how === "pending import" ? pending : MODULE;
      const data: ThreadData = how === "pending" ? { begin: "never" } : {};
      const started = IOThread.start(module, { signal: controller.signal, data });
      if (how === "imported") await new Promise((resolve) => setTimeout(resolve, 15));
      if (how === "pending" || how === "pending import") {
        // Far enough for a thread to wait for what never comes.
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
      controller.abort(reason);
      assertEquals(await rejection(started), reason);
    }
    // Later it ends nothing.
    const controller = new AbortController();
    const thread = await start({ signal: controller.signal });
    controller.abort(reason);
    assertEquals(await thread.call("add", 1, 2), 3);
    await thread.stop();
  }),
);
