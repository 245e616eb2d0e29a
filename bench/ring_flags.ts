/**
 * Which flags should an io_uring be set up with, whose completions are looked for by spinning?
 *
 * Each choice is a ring of its own, put together from the project's Ring and a liburing whose calls
 * are changed on the way. Three questions to each: how long a sleeping thread takes to answer an
 * eventfd; what a thread that only looks at memory sees of a completion, and how soon; and how many
 * re-armed polls a second pass through it. The rings are measured in turn, round after round.
 *
 * Run with: deno run -A bench/ring_flags.ts [--rounds 9] [--json]
 */
import { parseArgs } from "node:util";
import Table from "cli-table3";
import { RingLayout } from "../ffi/layout.ts";
import { LIBURING_NAME, loadLiburing, loadShim } from "../ffi/library.ts";
import type { Liburing } from "../ffi/liburing_symbols.ts";
import { Ring } from "../ffi/ring.ts";
import { SetupFlag } from "../ffi/ring_setup.ts";
import { CqeWord, SqeOp, SqeWord } from "../ffi/sqe.ts";
import { PollEvent, System } from "../ffi/system.ts";
import { compileFloor } from "../src/cli/bench_probe.ts";
import { describeMachine, machineLine } from "../src/cli/scale_report.ts";
import { median } from "../src/cli/median.ts";

/** How a ring is set up and entered. */
interface Choice {
  readonly name: string;
  readonly setupFlags: number;
  readonly noIowait?: boolean;
  readonly registeredFd?: boolean;
}

/** What was measured of a choice; the form of `--json`. */
interface Figures {
  /** Median time in ns from a write to the eventfd to the answer of a sleeping thread. */
  readonly wakeUpNs: number;
  /** The same of a thread that spins on the CQ tail and the SQ flags, an enter included if due. */
  readonly spinNs: number;
  /** Share of the completions that a spin on the CQ tail alone has seen. */
  readonly seenInTail: number;
  /** Share of the completions that the SQ flags have shown first. */
  readonly seenInFlags: number;
  /** Polls of quiet fds, each armed, completed by a write and read out, in a second. */
  readonly pollsPerSecond: number;
  /** Enters without anything to do, in a second. */
  readonly entersPerSecond: number;
}

const { singleIssuer, coopTaskrun, deferTaskrun, taskrunFlag } = SetupFlag;
const DEFER = singleIssuer | deferTaskrun;
const CHOICES: readonly Choice[] = [
  { name: "none", setupFlags: 0 },
  { name: "SINGLE_ISSUER", setupFlags: singleIssuer },
  { name: "COOP_TASKRUN", setupFlags: coopTaskrun },
  { name: "COOP_TASKRUN, TASKRUN_FLAG", setupFlags: coopTaskrun | taskrunFlag },
  { name: "DEFER_TASKRUN", setupFlags: DEFER },
  { name: "DEFER_TASKRUN, TASKRUN_FLAG", setupFlags: DEFER | taskrunFlag },
  {
    name: "the same, waits counted as iowait",
    setupFlags: DEFER | taskrunFlag,
    noIowait: false,
  },
  { name: "the same, registered ring fd", setupFlags: DEFER | taskrunFlag, registeredFd: true },
];

const WAKE_UPS = 300, SPINS = 60, BATCH = 64, BATCHES = 50, ENTERS = 5000;
/** What a completion may take to be seen in the CQ tail after the SQ flags have shown it. */
const TAIL_MS = 1;
/** What is in neither by now is shown by the next enter only. */
const UNSEEN_MS = 5;

const ENTER_FD_WORD = RingLayout.io_uring.ring_fd / 4 + 2;
const EnterFlag = { registeredRing: 1 << 4, noIowait: 1 << 7 } as const;

const liburing = loadLiburing();
const system = new System(loadShim());
const { io_uring_enter2: enter } = liburing;
const { io_uring_register_ring_fd: registerRingFd } = Deno.dlopen(LIBURING_NAME, {
  io_uring_register_ring_fd: { parameters: ["buffer"], result: "i32" },
}).symbols;
const { wake_up_run: wakeUpRun } = Deno.dlopen(
  await compileFloor("wake_up.so", ["wake_up.c"], ["-shared", "-fPIC"]),
  {
    wake_up_run: { parameters: ["buffer", "i32", "u32"], result: "f64", nonblocking: true },
  },
).symbols;

/** liburing with the flags of a choice instead of the ones asked for; one class, as V8 likes it. */
class ChosenLiburing {
  readonly io_uring_queue_exit = liburing.io_uring_queue_exit;
  readonly io_uring_register_probe = liburing.io_uring_register_probe;
  readonly #choice: Choice;
  readonly #enterMask: number;
  #enterFlags = 0;
  #registeredFd = -1;

  constructor(choice: Choice) {
    this.#choice = choice;
    this.#enterMask = choice.noIowait === false ? ~EnterFlag.noIowait : ~0;
  }

  io_uring_queue_init_params(entries: number, ring: BufferSource, params: BufferSource): number {
    (params as Uint32Array)[RingLayout.io_uring_params.flags / 4] = this.#choice.setupFlags |
      SetupFlag.cqSize | SetupFlag.clamp;
    const result = liburing.io_uring_queue_init_params(entries, ring, params);
    if (result < 0 || this.#choice.registeredFd !== true) return result;
    const registered = registerRingFd(ring);
    if (registered < 0) return registered;
    this.#registeredFd = new Int32Array((ring as BigUint64Array).buffer)[ENTER_FD_WORD];
    this.#enterFlags = EnterFlag.registeredRing;
    return result;
  }

  io_uring_enter2(
    fd: number,
    submit: number,
    complete: number,
    flags: number,
    argument: Deno.PointerValue,
    bytes: bigint,
  ): number {
    return enter(
      this.#registeredFd === -1 ? fd : this.#registeredFd,
      submit,
      complete,
      (flags & this.#enterMask) | this.#enterFlags,
      argument,
      bytes,
    );
  }
}

/** A ring of a choice with the fds it watches. */
class Subject {
  readonly choice: Choice;
  readonly #ring: Ring;
  readonly #fds = Array.from({ length: BATCH }, () => system.eventfd());
  readonly #words = new Int32Array(new SharedArrayBuffer(128));

  constructor(choice: Choice) {
    this.choice = choice;
    this.#ring = new Ring(new ChosenLiburing(choice) as unknown as Liburing, system);
    this.#ring.timeoutNs[0] = -1;
  }

  async measure(): Promise<Figures> {
    const wakeUpNs = await this.#askEachTime(WAKE_UPS, () => this.#enter(1));
    const spinNs = await this.#askEachTime(SPINS, () => this.#spin());
    let tail = 0, flags = 0;
    await this.#askEachTime(SPINS, () => {
      const seen = this.#spin();
      if (seen.flags) flags++;
      if (seen.tail || (seen.flags && this.#tailWithin(TAIL_MS))) tail++;
    });
    return {
      wakeUpNs,
      spinNs,
      seenInTail: tail / SPINS,
      seenInFlags: flags / SPINS,
      ...this.#throughput(),
    };
  }

  /** Has a C thread write an eventfd again and again; `see` returns when it has seen that. */
  async #askEachTime(times: number, see: () => void): Promise<number> {
    const words = this.#words;
    words.fill(0);
    const [fd] = this.#fds;
    const bytes = new Uint8Array(words.buffer) as unknown as Uint8Array<ArrayBuffer>;
    const medianNs = wakeUpRun(bytes, fd, times);
    for (let time = 1; time <= times; time++) {
      this.#arm(fd, 1);
      this.#enter(0);
      see();
      // Polls look at their fd once more when they complete, so it is cleared after that.
      while (this.#ring.completions() === 0) this.#enter(1);
      this.#ring.consume(this.#ring.completions());
      system.drain(fd);
      Atomics.store(words, 16, time);
    }
    return await medianNs;
  }

  /** Looks at the ring's memory until it shows a completion; says where. */
  #spin(): { tail: boolean; flags: boolean } {
    const ring = this.#ring;
    // The event comes right after the question, so this is when waiting for it begins.
    while (Atomics.load(this.#words, 0) === Atomics.load(this.#words, 16));
    const endMs = performance.now() + UNSEEN_MS;
    for (let look = 0;; look++) {
      if (ring.completions() !== 0) return { tail: true, flags: false };
      if (ring.needsEnter) return { tail: false, flags: true };
      if (look % 64 === 63 && performance.now() > endMs) return { tail: false, flags: false };
    }
  }

  #tailWithin(ms: number): boolean {
    const endMs = performance.now() + ms;
    while (performance.now() < endMs) if (this.#ring.completions() !== 0) return true;
    return false;
  }

  #throughput(): Pick<Figures, "pollsPerSecond" | "entersPerSecond"> {
    let startMs = performance.now();
    for (let batch = 0; batch < BATCHES; batch++) this.#batch();
    const pollsPerSecond = BATCHES * BATCH / (performance.now() - startMs) * 1000;
    startMs = performance.now();
    for (let time = 0; time < ENTERS; time++) this.#enter(0);
    return { pollsPerSecond, entersPerSecond: ENTERS / (performance.now() - startMs) * 1000 };
  }

  /** Arms all fds, makes them readable, takes the completions and clears the fds. */
  #batch(): void {
    const ring = this.#ring;
    for (let index = 0; index < BATCH; index++) this.#arm(this.#fds[index], index);
    this.#enter(0);
    for (const fd of this.#fds) system.signal(fd);
    for (let taken = 0; taken < BATCH;) {
      if (ring.completions() === 0) this.#enter(1);
      const count = ring.completions();
      for (let number = 0; number < count; number++) {
        system.drain(this.#fds[ring.cqes[ring.cqeIndex(number) + CqeWord.userData]]);
      }
      ring.consume(count);
      taken += count;
    }
  }

  #arm(fd: number, userData: number): void {
    const at = this.#ring.nextSqe();
    const words = this.#ring.sqes;
    words[at + SqeWord.opcode] = SqeOp.pollAdd;
    words[at + SqeWord.fd] = fd;
    words[at + SqeWord.opFlags] = PollEvent.in;
    words[at + SqeWord.userData] = userData;
    this.#ring.push();
  }

  #enter(complete: number): void {
    const result = this.#ring.enter(complete);
    if (result < 0) throw new Error(`Cannot enter the ring of "${this.choice.name}": ${result}`);
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { rounds: { type: "string", default: "9" }, json: { type: "boolean" } },
  });
  const rounds = Number(values.rounds);
  if (!Number.isInteger(rounds) || rounds < 1) {
    console.error(
      `error: Cannot use --rounds ${values.rounds} as it is not a whole number above 0`,
    );
    Deno.exit(2);
  }
  const subjects = CHOICES.map((choice) => new Subject(choice));
  const measured = subjects.map((): Figures[] => []);
  // The first round compiles the code.
  for (const subject of subjects) await subject.measure();
  for (let round = 0; round < rounds; round++) {
    for (const [index, subject] of subjects.entries()) {
      measured[index].push(await subject.measure());
    }
  }
  const rows = measured.map((rounds, index) => {
    const of = (figure: keyof Figures) => median(rounds.map((round) => round[figure]));
    return {
      name: CHOICES[index].name,
      wakeUpNs: of("wakeUpNs"),
      spinNs: of("spinNs"),
      seenInTail: of("seenInTail"),
      seenInFlags: of("seenInFlags"),
      pollsPerSecond: of("pollsPerSecond"),
      entersPerSecond: of("entersPerSecond"),
    };
  });
  if (values.json) {
    console.log(JSON.stringify({ machine: describeMachine(), rows }, null, 2));
    return;
  }
  const table = new Table({
    head: [
      "",
      "wake-up\nns",
      "seen by\nspin, ns",
      "in CQ\ntail",
      "in SQ\nflags",
      "polls\n1/s",
      "enters\n1/s",
    ],
    colAligns: ["left", "right", "right", "right", "right", "right", "right"],
    style: { head: [], border: [], compact: true },
  });
  const whole = (value: number) => Math.round(value).toLocaleString("en-US");
  const share = (value: number) => `${(value * 100).toFixed(0)} %`;
  for (const row of rows) {
    table.push([
      row.name,
      whole(row.wakeUpNs),
      whole(row.spinNs),
      share(row.seenInTail),
      share(row.seenInFlags),
      whole(row.pollsPerSecond),
      whole(row.entersPerSecond),
    ]);
  }
  console.log(`${machineLine(describeMachine())}\n${table.toString()}`);
}

await main();
Deno.exit(0);
