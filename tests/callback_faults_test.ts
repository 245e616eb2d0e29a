/** Callbacks of every kind that throw or dispose the context. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { type AioContext, EventNotifier } from "../mod.ts";
import { eachFdmon } from "./each_fdmon.ts";
import { type Place, PLACES, Scene } from "./every_callback.ts";
import { openFiles, ringMappings } from "./open_files.ts";

const THROWN: readonly unknown[] = [new Error("thrown"), null, undefined, "text", 0n];

for (const place of PLACES) {
  eachFdmon(`poll: throws what the callback threw: ${place}`, (makeContext) => {
    for (const value of THROWN) {
      using scene = new Scene(makeContext, place);
      scene.action = () => {
        throw value;
      };
      const outcome = scene.provoke();
      assertEquals([outcome.thrown, Object.is(outcome.value, value)], [true, true], String(value));
      scene.requireWorking();
    }
  });

  eachFdmon(`dispose: no callback runs after it: ${place}`, (makeContext) => {
    const files = openFiles(), mappings = ringMappings();
    {
      using scene = new Scene(makeContext, place);
      const { ctx } = scene;
      scene.action = () => {
        ctx[Symbol.dispose]();
        useDisposed(ctx);
      };
      assertEquals(scene.provoke(), { thrown: false });
      // The clock and the listeners are no callbacks of work; and the ioPollEnd that was due came.
      const allowed = (other: Place) =>
        other === "clock" || other === "ioPollEnd" || other.endsWith(" listener");
      assertEquals(scene.after.filter((other) => !allowed(other)), []);
      assertEquals(scene.ended, scene.begun);
      useDisposed(ctx);
    }
    assertEquals([openFiles(), ringMappings()], [files, mappings]);
  });
}

/** All that can still be called, and must neither crash nor have an effect. */
function useDisposed(ctx: AioContext): void {
  for (const blocking of [false, true]) {
    assertThrows(() => ctx.poll(blocking), TypeError, "Cannot poll as the context is disposed");
  }
  using notifier = new EventNotifier();
  const message = "the context is disposed";
  assertThrows(() => ctx.setFdHandler(notifier.fd, { ioRead() {} }), TypeError, message);
  assertThrows(() => ctx.setFdHandler(notifier.fd, null), TypeError, message);
  assertThrows(() => ctx.scheduleOneshot(() => {}), TypeError, message);
  assertThrows(() => ctx.setPollParams({ maxNs: 0 }), TypeError, message);
  assertThrows(() => ctx.disableExternal(), TypeError, message);
  assertEquals(ctx.stats().handlers, 0);
  ctx[Symbol.dispose]();
}

eachFdmon("poll: an AggregateError of several, with each in the order it came", (makeContext) => {
  using ctx = makeContext();
  using stack = new DisposableStack();
  const fail = (number: number) => () => {
    throw number;
  };
  ctx.scheduleOneshot(fail(1));
  ctx.scheduleOneshot(() => {
    // A nested iteration does all that is left to be done and throws what came of that, which is
    // one error of the outer one then.
    ctx.scheduleOneshot(fail(2));
    ctx.scheduleOneshot(fail(3));
    ctx.poll(false);
  });
  const notifier = stack.use(new EventNotifier());
  ctx.setFdHandler(notifier.fd, { ioRead: fail(4) });
  notifier.set();
  ctx.timer(fail(5)).arm(0);
  let thrown: unknown;
  try {
    ctx.poll(true);
  } catch (error) {
    thrown = error;
  }
  assert(thrown instanceof AggregateError);
  assertEquals(thrown.message, "2 callbacks failed in one iteration");
  const [first, nested] = thrown.errors;
  assertEquals(first, 1);
  assert(nested instanceof AggregateError);
  assertEquals(nested.errors, [2, 3, 4, 5]);
  notifier.testAndClear();
  assert(!ctx.poll(false));
});

eachFdmon("setFdHandler: in a timer, does not throw what other callbacks threw", (makeContext) => {
  using ctx = makeContext();
  using notifier = new EventNotifier();
  let done = false;
  ctx.scheduleOneshot(() => {
    throw new Error("from the bottom half");
  });
  ctx.timer(() => {
    ctx.setFdHandler(notifier.fd, { ioRead() {} });
    ctx.disableExternal();
    ctx.enableExternal();
    ctx.setFdHandler(notifier.fd, null);
    done = true;
  }).arm(0);
  assertThrows(() => ctx.poll(true), Error, "from the bottom half");
  assert(done);
});

for (const place of ["ioPollBegin", "ioPollEnd", "run_poll_handlers_end listener"] as const) {
  eachFdmon(`poll: does not sleep over what was thrown: ${place}`, (makeContext) => {
    using ctx = makeContext({ pollParams: { maxNs: 1e9, idleNs: Infinity } });
    using notifier = new EventNotifier();
    let fail: Place | null = null;
    const at = (here: Place) => {
      if (here !== fail) return;
      fail = null;
      throw new Error(here);
    };
    ctx.setFdHandler(notifier.fd, {
      ioRead: () => notifier.testAndClear(),
      ioPoll: () => false,
      ioPollReady() {},
      ioPollBegin: () => at("ioPollBegin"),
      ioPollEnd: () => at("ioPollEnd"),
    });
    ctx.trace.on("run_poll_handlers_end", () => at("run_poll_handlers_end listener"));
    notifier.set();
    assert(ctx.poll(true));
    // Only the error ends this poll before the watchdog.
    let slept = false;
    ctx.timer(() => slept = true).arm(ctx.now() + 20e9);
    fail = place;
    assertThrows(() => ctx.poll(true), Error, place);
    assert(!slept);
    ctx.setFdHandler(notifier.fd, null);
  });
}
