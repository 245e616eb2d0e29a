/**
 * Coroutines: async functions that yield, are entered by others, and have a context as their home.
 *
 * JavaScript has no current coroutine after an `await`, so the function is given its own as an
 * argument. AsyncLocalStorage could tell, but makes a coroutine eight times as expensive to begin
 * (1.3 µs more) and a process 4 ms later to start; measured with Deno 2.9.6.
 *
 * A coroutine's code runs as promise jobs, never inside poll(): entering one makes its job due, and
 * jobs run in the order of the entering. `ctx.run` runs them between iterations; who calls `poll`
 * by hand has them run once it returns to Deno, as with `await null`. A coroutine entered by another
 * one therefore goes on when that one next awaits, on an empty stack, however often they enter each
 * other. As long as they do nothing else the loop has no turn; `reschedule` gives it one.
 *
 * A switch costs one promise and what the engine makes for it. Invariant: `#resume` belongs to the
 * promise of the last yield, and is called once.
 */
import type { AioContext } from "./aio_context.ts";
import { requireFunction } from "./context_types.ts";
import { type CoroutineHome, findHome, type HomedCoroutine } from "./coroutine_home.ts";
import { ListLink } from "./intrusive_list.ts";

/** What a coroutine runs. */
export type CoroutineFunction<Result> = (co: Coroutine) => Result | PromiseLike<Result>;

/** Options of a coroutine. */
export interface CoroutineOptions {
  /** Shown in errors and trace events; the function's name where not given. */
  name?: string;
}

/**
 * What a coroutine is up to. "running" is also what waits for something other than to be entered, as
 * for a file, and what was entered and has not come to its turn yet.
 */
export type CoroutineState = "scheduled" | "running" | "yielded" | "ended";

/** What structuredClone and postMessage come across; a getter would cost each coroutine 400 ns. */
const NOT_POSTED = Symbol("a Coroutine, which belongs to the thread that made it,");

let coroutines = 0;

/**
 * An async function that can yield; made by `coSchedule`, and given to the function as its argument.
 *
 * @example
 * ```ts
 * import { AioContext, coEnter, coSchedule } from "@aio/context";
 * using ctx = new AioContext();
 * await ctx.run(async () => {
 *   const sleeper = coSchedule(ctx, async (co) => {
 *     ctx.timer(() => coEnter(co)).arm(ctx.now() + 1e6);
 *     await co.yield(); // until the timer enters it
 *     return "a millisecond later";
 *   });
 *   console.log(await sleeper.join());
 * });
 * ```
 */
export class Coroutine<Result = unknown> {
  /** Names it in trace events. */
  readonly id: number = ++coroutines;
  /** Shown in errors and trace events. */
  readonly name: string;
  /** Has postMessage refuse it, instead of making an empty object of it. */
  readonly transferable: symbol = NOT_POSTED;
  #home: CoroutineHome;
  #state: CoroutineState = "yielded";
  #resume!: (how: void | PromiseLike<void>) => void;
  readonly #keepResume = (resolve: (how: void | PromiseLike<void>) => void): void => {
    this.#resume = resolve;
  };
  readonly #member: ListLink<HomedCoroutine> = new ListLink<HomedCoroutine>(this);
  readonly #place: ListLink<HomedCoroutine> = new ListLink<HomedCoroutine>(this);
  /** What has scheduled it, and where, if that is known. */
  #scheduledBy = "";
  /** What it was told when its home was disposed: no failure of its own. */
  #disposal: TypeError | null = null;
  /** What its function has returned or thrown, once it has ended. */
  #outcome: unknown;
  #failed = false;
  #joined: PromiseWithResolvers<unknown> | null = null;

  /**
   * For `coSchedule`. It begins where it is entered first.
   *
   * @internal
   */
  constructor(home: CoroutineHome, run: CoroutineFunction<Result>, name: string) {
    this.name = name;
    this.#home = home;
    home.add(this.#member);
    this.#live(run, new Promise(this.#keepResume));
  }

  /** Where it lives: the context it was last scheduled on. */
  get context(): AioContext {
    return this.#home.context;
  }

  /** What it is up to. */
  get state(): CoroutineState {
    return this.#state;
  }

  /**
   * Lets go until somebody enters or schedules it. Called by the coroutine itself, and awaited.
   *
   * @throws {TypeError} when its context is disposed, before or meanwhile
   */
  yield(): Promise<void> {
    if (this.#state !== "running") return Promise.reject(this.#refusal("yield"));
    if (this.#home.disposed) return Promise.reject(this.#disposal = this.#disposed("yield"));
    this.#state = "yielded";
    return new Promise(this.#keepResume);
  }

  /**
   * Lets go and goes on in another context: in the dispatch phase of its next iteration it is
   * entered, behind those scheduled before. With its own context, it lets that take a turn.
   *
   * @throws {TypeError} when that context is disposed, before or meanwhile
   */
  reschedule(context: AioContext): Promise<void> {
    const problem = this.#state === "running" ? null : this.#refusal("reschedule");
    const home = findHome(context);
    if (problem !== null || home === undefined || home.disposed) {
      return Promise.reject(problem ?? homeProblem("reschedule", context));
    }
    const entered = new Promise(this.#keepResume);
    this.#schedule(home, "coReschedule");
    return entered;
  }

  /**
   * Continues it after a yield. The caller goes on first: the coroutine does when promise jobs run,
   * and until it yields again it cannot be entered again. What may happen at any time, as events of
   * a device, is better told by a `CoSemaphore` or a `CoQueue`, which remember it.
   *
   * @throws {TypeError} when it has not yielded
   */
  enter(): void {
    if (this.#state !== "yielded") throw this.#refusal("enter");
    this.#state = "running";
    this.#resume();
  }

  /**
   * Has it entered in the next iteration of a context, which becomes its home.
   *
   * @throws {TypeError} when it has not yielded; where it is scheduled already, the error names what
   *   has done that, and the line as well while somebody listens to `aio_co_schedule`
   */
  schedule(context: AioContext): void {
    if (this.#state !== "yielded") throw this.#refusal("schedule");
    this.#schedule(requireHome("schedule", context), "coSchedule");
  }

  /**
   * Waits for its end. Who joins takes over its error, which otherwise comes out of poll().
   *
   * @returns what its function returns
   * @throws what that throws
   */
  join(): Promise<Result> {
    let joined: Promise<unknown>;
    if (this.#state !== "ended") joined = (this.#joined ??= Promise.withResolvers()).promise;
    else if (this.#failed) joined = Promise.reject(this.#outcome);
    else joined = Promise.resolve(this.#outcome);
    return joined as Promise<Result>;
  }

  /** @internal For its home. */
  enterScheduled(): void {
    if (this.#state !== "scheduled") throw new Error("assertion failed: it is not scheduled");
    this.#state = "running";
    this.#resume();
  }

  /** @internal For its home. */
  abandon(): void {
    if (this.#state !== "yielded" && this.#state !== "scheduled") return;
    this.#place.list?.remove(this.#place);
    this.#state = "running";
    this.#disposal = this.#disposed("go on with");
    this.#resume(Promise.reject(this.#disposal));
  }

  /** Called with the resume function of a promise at hand, and a home that is not disposed. */
  #schedule(home: CoroutineHome, by: string): void {
    if (home !== this.#home) {
      this.#member.list?.remove(this.#member);
      this.#home = home;
      home.add(this.#member);
    }
    this.#state = "scheduled";
    this.#scheduledBy = home.trace.wants("aio_co_schedule") ? `${by}, ${callerPlace()},` : by;
    home.schedule(this.#place);
  }

  async #live(run: CoroutineFunction<Result>, entered: Promise<void>): Promise<void> {
    try {
      await entered;
      this.#outcome = await run(this);
    } catch (error) {
      this.#outcome = error;
      this.#failed = true;
    }
    this.#end();
  }

  #end(): void {
    this.#state = "ended";
    this.#member.list?.remove(this.#member);
    // It may have returned without waiting for its own yield.
    this.#place.list?.remove(this.#place);
    const outcome = this.#outcome, joined = this.#joined;
    if (!this.#failed) joined?.resolve(outcome);
    else if (joined !== null) joined.reject(outcome);
    else if (outcome === null || outcome !== this.#disposal) this.#home.fail(outcome);
  }

  #refusal(verb: string): TypeError {
    const why = {
      running: "it has not yielded",
      yielded: "it has yielded already",
      ended: "it has ended",
      scheduled: `${this.#scheduledBy} has scheduled it already`,
    }[this.#state];
    return new TypeError(`Cannot ${verb} a coroutine as ${why}: ${this.name}`);
  }

  #disposed(verb: string): TypeError {
    return new TypeError(`Cannot ${verb} a coroutine as its context is disposed: ${this.name}`);
  }
}

/**
 * Makes a coroutine of an async function and has it entered in the next iteration of a context: in
 * its dispatch phase, by a bottom half, first scheduled first entered. Or schedules one that has
 * yielded, which that context becomes the home of. QEMU's aio_co_schedule.
 *
 * @param context where it is to live
 * @param run the function, which is given its coroutine; or a coroutine that has yielded
 * @param options a name
 * @throws {TypeError} when the context is disposed, or the coroutine has not yielded; where it is
 *   scheduled already the error names what has done that
 *
 * @example
 * ```ts
 * import { AioContext, coSchedule } from "@aio/context";
 * using ctx = new AioContext();
 * const order: number[] = [];
 * coSchedule(ctx, () => order.push(1));
 * coSchedule(ctx, () => order.push(2));
 * await ctx.run(() => coSchedule(ctx, () => order.push(3)).join());
 * console.log(order); // [1, 2, 3]
 * ```
 */
export function coSchedule<Result>(
  context: AioContext,
  run: CoroutineFunction<Result> | Coroutine<Result>,
  options: CoroutineOptions = {},
): Coroutine<Result> {
  if (run instanceof Coroutine) {
    run.schedule(context);
    return run;
  }
  const home = requireHome("schedule", context);
  requireFunction(run, "schedule a coroutine");
  const co = new Coroutine(home, run, String(options?.name ?? (run.name || "anonymous")));
  co.schedule(context);
  return co;
}

/**
 * Continues a coroutine that has yielded: from a callback, or from another coroutine, which goes on
 * until it awaits. QEMU's aio_co_enter.
 *
 * @throws {TypeError} when it has not yielded since it was entered last, is scheduled or has ended
 *
 * @example
 * ```ts
 * import { AioContext, coEnter, coSchedule, coYield } from "@aio/context";
 * using ctx = new AioContext();
 * await ctx.run(async () => {
 *   const ping = coSchedule(ctx, async (co) => {
 *     await coYield(co);
 *     console.log("ping");
 *   });
 *   await coSchedule(ctx, () => coEnter(ping)).join();
 *   await ping.join();
 * });
 * ```
 */
export function coEnter(co: Coroutine): void {
  if (!(co instanceof Coroutine)) throw notCoroutine("enter", co);
  co.enter();
}

/**
 * Lets the running coroutine go until it is entered or scheduled. QEMU's qemu_coroutine_yield.
 *
 * @param co the coroutine that calls this
 * @throws {TypeError} when its context is disposed, before or meanwhile
 */
export function coYield(co: Coroutine): Promise<void> {
  return co instanceof Coroutine ? co.yield() : Promise.reject(notCoroutine("yield", co));
}

/**
 * Moves the running coroutine to another context, where it is entered in the next iteration; with
 * its own, it lets that take a turn. QEMU's aio_co_reschedule_self.
 *
 * @param context where it is to go on
 * @param co the coroutine that calls this
 * @throws {TypeError} when that context is disposed, before or meanwhile
 *
 * @example
 * ```ts
 * import { AioContext, coReschedule, coSchedule } from "@aio/context";
 * using first = new AioContext();
 * using second = new AioContext();
 * const co = coSchedule(first, async (co) => {
 *   await coReschedule(second, co);
 *   return co.context === second;
 * });
 * void first.run(() => co.join());
 * console.log(await second.run(() => co.join())); // true
 * ```
 */
export function coReschedule(context: AioContext, co: Coroutine): Promise<void> {
  if (!(co instanceof Coroutine)) return Promise.reject(notCoroutine("reschedule", co));
  return co.reschedule(context);
}

function notCoroutine(verb: string, co: unknown): TypeError {
  return new TypeError(`Cannot ${verb} a coroutine as it is none: ${typeof co}`);
}

function requireHome(verb: string, context: unknown): CoroutineHome {
  const home = findHome(context);
  if (home === undefined || home.disposed) throw homeProblem(verb, context);
  return home;
}

function homeProblem(verb: string, context: unknown): TypeError {
  const why = findHome(context) === undefined
    ? `its context is no AioContext: ${typeof context}`
    : "the context is disposed";
  return new TypeError(`Cannot ${verb} a coroutine as ${why}`);
}

/** The line that has called into this module, as a stack shows it. */
function callerPlace(): string {
  const lines = new Error().stack!.split("\n").slice(1);
  return lines.find((line) => !line.includes(import.meta.url))?.trim() ?? "at an unknown place";
}
