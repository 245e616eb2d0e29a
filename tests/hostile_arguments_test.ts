/** Arguments that run code while they are read, or that pretend to be what they are not. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  AioContext,
  type AioContextOptions,
  EventNotifier,
  type FdHandler,
  PollWord,
} from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { openFiles } from "./open_files.ts";

const NAMES = [
  "ioRead",
  "ioWrite",
  "ioPoll",
  "ioPollReady",
  "ioPollBegin",
  "ioPollEnd",
  "isExternal",
] as const;

/** Good callbacks, of which one is a getter that runs `hook` first. */
function withGetter(name: keyof FdHandler, hook: () => void): FdHandler {
  const callbacks: FdHandler = { ioRead() {}, ioPollReady() {}, ioPoll: () => false };
  const value = callbacks[name];
  return Object.defineProperty(callbacks, name, { get: () => (hook(), value) });
}

eachFdmon("setFdHandler: every property of the callbacks is read once", (makeContext) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  const reads: string[] = [];
  let handled = 0;
  const callbacks: Record<string, unknown> = {
    ioRead: () => (notifier.testAndClear(), handled++),
    ioPollReady: () => {},
    ioPoll: () => false,
  };
  const changing = new Proxy({}, {
    get(_, name) {
      reads.push(String(name));
      // Whoever reads a second time gets something that would have been refused.
      return reads.indexOf(String(name)) < reads.length - 1 ? 7 : callbacks[String(name)];
    },
  });
  ctx.setFdHandler(notifier.fd, changing);
  assertEquals(reads.toSorted(), NAMES.toSorted());
  notifier.set();
  assert(ctx.poll(true));
  assertEquals(handled, 1);
  ctx.setFdHandler(notifier.fd, null);
});

eachFdmon("setFdHandler: a getter that throws changes nothing", (makeContext) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  let handled = 0;
  ctx.setFdHandler(notifier.fd, { ioRead: () => (notifier.testAndClear(), handled++) });
  for (const name of NAMES) {
    const hook = () => {
      throw new Error(name);
    };
    assertThrows(() => ctx.setFdHandler(notifier.fd, withGetter(name, hook)), Error, name);
  }
  notifier.set();
  assert(ctx.poll(true));
  assertEquals([handled, ctx.stats().handlers], [1, 1]);
});

eachFdmon("setFdHandler: a getter may set handlers of the same fd", (makeContext) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  const { fd } = notifier;
  for (const name of NAMES) {
    for (const inner of [null, { ioRead: () => assert(false, "replaced") }]) {
      ctx.setFdHandler(fd, { ioRead: () => assert(false, "replaced") });
      ctx.setFdHandler(fd, withGetter(name, () => ctx.setFdHandler(fd, inner)));
      assertEquals(ctx.stats().handlers, 1, name);
      notifier.set();
      assert(ctx.poll(true));
      notifier.testAndClear();
      ctx.setFdHandler(fd, null);
      assertEquals(ctx.stats().handlers, 0, name);
    }
  }
});

eachFdmon("setFdHandler: a getter may dispose the context", (makeContext) => {
  using notifier = new EventNotifier();
  for (const name of NAMES) {
    const ctx = makeContext();
    ctx.setFdHandler(notifier.fd, { ioRead() {} });
    const callbacks = withGetter(name, () => ctx[Symbol.dispose]());
    assertThrows(() => ctx.setFdHandler(notifier.fd, callbacks), TypeError, "context is disposed");
    assertEquals(ctx.stats().handlers, 0);
  }
});

Deno.test("AioContext: every option is read once; a getter that throws leaks nothing", () => {
  const files = openFiles();
  const names = ["fdmon", "pollParams", "clock", "shim", "liburing"] as const;
  const reads: string[] = [];
  const counting = new Proxy({}, { get: (_, name) => void reads.push(String(name)) });
  new AioContext(counting)[Symbol.dispose]();
  assertEquals(reads, [...names]);
  for (const name of names) {
    const options: AioContextOptions = Object.defineProperty({}, name, {
      get() {
        throw new Error(name);
      },
    });
    assertThrows(() => new AioContext(options), Error, name);
  }
  assertEquals(openFiles(), files);
});

Deno.test("setFdHandler: an object that only pretends to be a PollWord is refused", () => {
  using ctx = new AioContext();
  using notifier = new EventNotifier();
  const ioPoll = Object.create(PollWord.prototype) as PollWord;
  assertThrows(
    () => ctx.setFdHandler(notifier.fd, { ioRead() {}, ioPollReady() {}, ioPoll }),
    TypeError,
    "ioPoll is neither a function nor a PollWord: object",
  );
});
