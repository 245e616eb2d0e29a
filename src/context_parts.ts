/**
 * The parts of a context, made and put together.
 *
 * Who needs whom: everybody reports failures of callbacks to `errors`; poll mode and the backend
 * share the ready list and the iteration's times; the notifier is a handler like others, so it is
 * made before the backend that watches it. Whatever is made when something else fails is given back.
 */
import { loadShim } from "../ffi/library.ts";
import type { Shim } from "../ffi/shim_symbols.ts";
import { Spin } from "../ffi/spin.ts";
import { System } from "../ffi/system.ts";
import { AioHandler, readFdHandler } from "./aio_handler.ts";
import { BottomHalfQueue, QueuedBottomHalf } from "./bottom_half.ts";
import { CallbackErrors } from "./callback_errors.ts";
import { type Clock, SystemClock } from "./clock.ts";
import { ContextNotifier } from "./context_notifier.ts";
import { ContextRequests } from "./context_requests.ts";
import type { AioContextOptions, AioStats } from "./context_types.ts";
import { CoroutineHome } from "./coroutine_home.ts";
import { Dispatcher } from "./dispatcher.ts";
import { HandlerRegistry } from "./handler_registry.ts";
import { IntrusiveList } from "./intrusive_list.ts";
import { Iteration } from "./iteration.ts";
import { IterationTimes } from "./iteration_times.ts";
import { PollMode } from "./poll_mode.ts";
import { defaultPollParams, mergePollParams } from "./polling_time.ts";
import { ContextMessages } from "./threads/context_messages.ts";
import { TimerList } from "./timer_list.ts";
import { RequestPolling } from "./request_polling.ts";
import { Trace } from "./trace.ts";

/** What a context is made of. */
export class ContextParts {
  readonly errors: CallbackErrors = new CallbackErrors();
  readonly clock: Clock;
  readonly shim: Shim;
  readonly system: System;
  readonly trace: Trace;
  readonly bottomHalves: BottomHalfQueue;
  readonly coroutines: CoroutineHome;
  readonly timers: TimerList;
  readonly notifier: ContextNotifier;
  readonly pollMode: PollMode;
  readonly requests: ContextRequests;
  readonly requestPolling: RequestPolling;
  readonly handlers: HandlerRegistry;
  readonly dispatcher: Dispatcher;
  readonly times: IterationTimes;
  readonly iteration: Iteration;
  readonly #awaited: () => void;
  #messages: ContextMessages | null = null;
  #tornDown = false;

  /**
   * @param options as they were read
   * @param changed called when the loop must not sleep on what it knew before
   * @param requireOpen throws where the context is disposed
   * @param awaited called when a call of another context is outstanding
   */
  constructor(
    options: AioContextOptions,
    changed: () => void,
    requireOpen: (verb: string) => void,
    awaited: () => void,
  ) {
    this.#awaited = awaited;
    const { fdmon, liburing } = options;
    const params = mergePollParams(defaultPollParams(), options.pollParams ?? {});
    const shim = this.shim = loadShim({ shim: options.shim });
    const { report } = this.errors;
    this.clock = options.clock ?? new SystemClock(shim);
    const system = this.system = new System(shim);
    const trace = this.trace = new Trace(report);
    this.bottomHalves = new BottomHalfQueue(changed, trace, report);
    this.coroutines = new CoroutineHome(this.bottomHalves, trace, this.errors);
    this.timers = new TimerList(changed, trace, report);
    this.notifier = new ContextNotifier(system, shim);
    const notifier = notifierHandler(this.notifier);
    const spin = new Spin<AioHandler>(shim, this.notifier.notifiedAddress);
    const ringSpin = new Spin<never>(shim, this.notifier.notifiedAddress);
    const ready = new IntrusiveList<AioHandler>();
    const times = this.times = new IterationTimes(this.clock, report);
    this.requestPolling = new RequestPolling({ times, ringSpin, trace });
    this.pollMode = new PollMode({ times, spin, ready, trace, notifier, report });
    const { board, place } = this.notifier;
    const keepPool = (address: bigint) => board.keepPool(place, address);
    const requestParts = { shim, system, trace, changed, report, requireOpen, keepPool };
    this.requests = new ContextRequests(requestParts);
    const { queue } = this.requests;
    const shared = { system, spin, ringSpin, ready, times, notifier, trace };
    const ringMemory = board.ringMemory(place);
    const fdmonParts = { ...shared, requests: queue, ringMemory, liburing };
    try {
      this.handlers = new HandlerRegistry(fdmon, fdmonParts, this.pollMode, changed, report);
    } catch (error) {
      this.notifier.dispose();
      throw error;
    }
    this.requests.useHandlers(this.handlers);
    this.dispatcher = new Dispatcher(ready, this.handlers, this.pollMode, trace, report);
    this.iteration = new Iteration(params, { ...this, requests: queue });
  }

  /** What passes between this context and others; made when that is first asked for. */
  get messages(): ContextMessages {
    return this.#messages ??= this.#makeMessages();
  }

  /** Number of calls of other contexts that have no result yet. */
  get outstandingCalls(): number {
    return this.#messages?.outstanding ?? 0;
  }

  /** Other threads may wake the context, or send it something, from now on. */
  share(): void {
    this.iteration.shared = true;
    this.notifier.accepted ??= () => {
      if (this.#messages !== null || this.notifier.hasNews) this.messages.arrived();
    };
  }

  /** Whether anything can happen that nobody on this thread begins. */
  get busy(): boolean {
    const { requests, handlers, timers, bottomHalves, iteration, notifier } = this;
    return requests.queue.inFlight !== 0 || handlers.size !== 0 || timers.size !== 0 ||
      bottomHalves.urgentCount + bottomHalves.idleCount !== 0 || iteration.shared ||
      notifier.notified;
  }

  /** Ends what passes between this context and others. */
  endMessages(): void {
    this.notifier.close();
    if (this.#messages !== null || this.notifier.hasNews) this.messages.dispose();
  }

  #makeMessages(): ContextMessages {
    const { shim, system, notifier, errors: { report } } = this;
    this.share();
    return new ContextMessages({
      shim,
      board: notifier.board,
      place: notifier.remote,
      signal: (fd) => system.signal(fd),
      report,
      reportLate: (error) => this.coroutines.fail(error),
      awaited: this.#awaited,
      bottomHalf: (run) => new QueuedBottomHalf(this.bottomHalves, run, "messages"),
    });
  }

  /** Gives back to the system, once, what the parts hold of it. */
  tearDown(): void {
    if (this.#tornDown) return;
    this.#tornDown = true;
    for (const part of [this.requests.queue, this.handlers, this.notifier]) {
      this.errors.attempt(() => part.dispose());
    }
  }

  /** Counters and sizes, as they are now. */
  stats(): Omit<AioStats, "polls"> {
    const { pollMode, requestPolling, handlers, dispatcher, bottomHalves, requests } = this;
    return {
      waits: this.iteration.waits,
      systemCalls: this.system.calls,
      pollRuns: pollMode.runs,
      pollHits: pollMode.hits,
      pollModeNs: pollMode.totalNs,
      requestPolls: requestPolling.runs,
      requestPollHits: requestPolling.hits,
      requestPollNs: requestPolling.totalNs,
      idleRemovals: pollMode.removals,
      dispatches: dispatcher.calls,
      handlers: handlers.size,
      listed: pollMode.size,
      ready: dispatcher.pending,
      deleted: handlers.deletedSize,
      timers: this.timers.size,
      bottomHalves: bottomHalves.urgentCount + bottomHalves.idleCount,
      requests: requests.queue.inFlight,
      coroutines: this.coroutines.size,
    };
  }
}

/** The handler of the context's own notifier. */
function notifierHandler(notifier: ContextNotifier): AioHandler {
  const drain = { ioRead: () => notifier.drain(), ioPollReady() {} };
  return new AioHandler(notifier.fd, readFdHandler(notifier.fd, drain, -1)!, true);
}
