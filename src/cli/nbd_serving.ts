/**
 * Who serves the connections: this thread, or IOThreads over which they are spread.
 *
 * Connections are accepted here in both cases; a thread is given the fd of one, and its call lasts as
 * long as the connection, so whoever has the fewest is the least loaded. Invariant: a connection that
 * was given to `serve` is closed when that settles.
 */
import {
  type AioContext,
  type AioSocket,
  type FunctionsOf,
  IOThreadPool,
  type RunScope,
} from "../../mod.ts";
import type { NbdStats } from "../nbd/mod.ts";
import type { NbdOptions } from "./nbd_options.ts";
import { type DiskFacts, NbdService, type ServiceOrder } from "./nbd_service.ts";
import type nbdThread from "./nbd_thread.ts";

/** Serves connections. */
export interface Serving {
  readonly facts: readonly DiskFacts[];
  /** Rejects when it cannot go on; never resolves. */
  readonly failed: Promise<never>;
  /** Serves a connection until it has ended. */
  serve(socket: AioSocket): Promise<void>;
  /** Counters, summed up. */
  stats(): Promise<NbdStats>;
  /** Ends in good order, and tells the last counters. */
  close(): Promise<NbdStats>;
}

/** Opens what is served, in as many threads as the options say. */
export async function openServing(
  ctx: AioContext,
  host: RunScope["host"],
  order: ServiceOrder,
  { threads, context }: NbdOptions,
): Promise<Serving> {
  if (threads === 1) return serveHere(await host(NbdService.open(ctx, order)), host);
  const module = new URL("./nbd_thread.ts", import.meta.url);
  const pool = await host(IOThreadPool.start<typeof nbdThread>(module, {
    ...context,
    threads,
    name: "nbd",
    context: ctx,
  }));
  return await ThreadedServing.open(pool, host, order);
}

function serveHere(service: NbdService, host: RunScope["host"]): Serving {
  return {
    facts: service.facts,
    failed: new Promise(() => {}),
    serve: (socket) => service.serve(socket),
    stats: () => Promise.resolve(service.stats()),
    close: () => host(service.close()),
  };
}

class ThreadedServing implements Serving {
  readonly facts: readonly DiskFacts[];
  readonly failed: Promise<never>;
  readonly #pool: IOThreadPool<FunctionsOf<typeof nbdThread>>;
  readonly #host: RunScope["host"];

  private constructor(
    pool: IOThreadPool<FunctionsOf<typeof nbdThread>>,
    host: RunScope["host"],
    facts: readonly DiskFacts[],
  ) {
    this.#pool = pool;
    this.#host = host;
    this.facts = facts;
    // A thread that ends in good order does so as it was told to.
    this.failed = new Promise((_, reject) => {
      for (const thread of pool.threads) thread.join().catch(reject);
    });
    this.failed.catch(() => {});
  }

  static async open(
    pool: IOThreadPool<FunctionsOf<typeof nbdThread>>,
    host: RunScope["host"],
    order: ServiceOrder,
  ): Promise<ThreadedServing> {
    const opened = await Promise.allSettled(pool.threads.map((one) => one.call("open", order)));
    const refused = opened.find(({ status }) => status === "rejected");
    if (refused === undefined) {
      const [{ value }] = opened as PromiseFulfilledResult<DiskFacts[]>[];
      return new ThreadedServing(pool, host, value);
    }
    await Promise.allSettled(pool.threads.map((one) => one.call("close")));
    await host(pool.stop());
    throw (refused as PromiseRejectedResult).reason;
  }

  async serve(socket: AioSocket): Promise<void> {
    try {
      await this.#pool.call("serve", socket.fd);
    } catch {
      // Serving rejects nothing: no thread has taken it.
      await socket.close();
    }
  }

  async stats(): Promise<NbdStats> {
    return sum(await Promise.all(this.#pool.threads.map((thread) => thread.call("stats"))));
  }

  async close(): Promise<NbdStats> {
    const ended = await Promise.allSettled(
      this.#pool.threads.map((thread) => thread.call("close")),
    );
    await this.#host(this.#pool.stop());
    for (const one of ended) if (one.status === "rejected") throw one.reason;
    return sum(ended.flatMap((one) => one.status === "fulfilled" ? [one.value!] : []));
  }
}

/** Counters of several servers as those of one. */
function sum(all: readonly NbdStats[]): NbdStats {
  return all.reduce((one, other) => add(one, other) as unknown as NbdStats);
}

/** Adds numbers of the same name, also those of objects within. */
function add(one: object, other: object): Record<string, unknown> {
  const others = other as Record<string, unknown>;
  return Object.fromEntries(
    Object.entries(one).map(([name, value]) => [
      name,
      typeof value === "number"
        ? value + (others[name] as number)
        : add(value, others[name] as object),
    ]),
  );
}
