/** The same script of operations gives the same callbacks on every backend. */
import { assert, assertEquals } from "@std/assert";
import { EventNotifier, ManualClock } from "../mod.ts";
import { eachFdmon, FDMONS, type MakeContext } from "./each_fdmon.ts";
import { RandomNumbers } from "./random_model.ts";

const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));
const NOTIFIERS = 30, ROUNDS = 3_000, CHANGES_PER_ROUND = 6;

/** Plays the script; what ran in each round, sorted, as the order of fds is a backend's own. */
function play(makeContext: MakeContext, seed: number): string[] {
  const random = new RandomNumbers(seed);
  const clock = new ManualClock();
  using ctx = makeContext({ clock, pollParams: { maxNs: 0 } });
  using stack = new DisposableStack();
  const notifiers = Array.from({ length: NOTIFIERS }, () => stack.use(new EventNotifier()));
  const ran: string[] = [], rounds: string[] = [];
  let generation = 0;
  const set = (index: number, number: number) => {
    const notifier = notifiers[index];
    const ioRead = () => {
      ran.push(`read ${index} of ${number}`);
      // What a callback does depends on nothing that a backend decides.
      if (number % 5 !== 0) notifier.testAndClear();
      if (number % 7 === 0) ctx.setFdHandler(notifier.fd, null);
      if (number % 11 === 0) set(index, number + 1000);
      if (number % 13 === 0) half.schedule();
    };
    const ioWrite = () => {
      ran.push(`write ${index} of ${number}`);
      ctx.setFdHandler(notifier.fd, { ioRead, isExternal });
    };
    const isExternal = number % 3 === 0;
    const callbacks = number % 4 === 0 ? { ioRead, ioWrite, isExternal } : { ioRead, isExternal };
    ctx.setFdHandler(notifier.fd, callbacks);
  };
  const half = ctx.bottomHalf(() => ran.push("bottom half"));
  const timer = ctx.timer(() => ran.push("timer"));
  let disabled = false;
  for (let round = 0; round < ROUNDS; round++) {
    for (let change = random.below(CHANGES_PER_ROUND); change > 0; change--) {
      const index = random.below(NOTIFIERS);
      const kind = random.below(10);
      if (kind < 3) set(index, ++generation);
      else if (kind < 7) notifiers[index].set();
      else if (kind === 7) ctx.setFdHandler(notifiers[index].fd, null);
      else if (kind === 8) timer.arm(clock.now() + random.below(2_000));
      else {
        if (disabled) ctx.enableExternal();
        else ctx.disableExternal();
        disabled = !disabled;
      }
    }
    clock.advance(1_000);
    ran.push(`progress ${ctx.poll(false)}`);
    rounds.push(ran.sort().join(", "));
    ran.length = 0;
  }
  for (const { fd } of notifiers) ctx.setFdHandler(fd, null);
  return rounds;
}

const played = new Map<string, string[]>();

eachFdmon(
  "AioContext: a random script runs the same callbacks as elsewhere",
  (makeContext, fdmon) => {
    const rounds = play(makeContext, SEED);
    const ran = rounds.filter((round) => round.includes("read")).length;
    assert(ran > ROUNDS / 10, `only ${ran} rounds did something, AIO_TEST_SEED=${SEED}`);
    played.set(fdmon, rounds);
    const other = FDMONS.map((name) => played.get(name)).find((rounds) => rounds !== undefined)!;
    for (let round = 0; round < ROUNDS; round++) {
      assertEquals(rounds[round], other[round], `round ${round}, AIO_TEST_SEED=${SEED}`);
    }
  },
);
