/**
 * Echo servers and the client they share, as something `bench` can measure.
 *
 * A server is a process that listens on a unix socket and ends with its standard input; the client
 * is bench/echo_client.c for all of them. Both stay for all rounds, and their connections too.
 */
import type { Figures } from "./bench_child.ts";
import { ChildProbe, compileFloor, type Probe } from "./bench_probe.ts";
import { CommandError } from "./exit.ts";

const CONNECTIONS = 64, IDLE_CONNECTIONS = 10_000;
const MESSAGE_BYTES = 64;
const SECONDS = 0.25;
const MEGABYTE = 1e6;
/** Times that a server is asked whether it has seen all idle connections end. */
const QUESTIONS_MAX = 1000;

/** Starts a server that listens at this path. */
export type StartServer = (path: string) => Promise<ChildProbe>;

/** A running server, and how to connect to it. */
interface Pair {
  readonly server: ChildProbe;
  readonly connect: (connections: number) => Promise<ChildProbe>;
}

async function startPair(stack: AsyncDisposableStack, startServer: StartServer): Promise<Pair> {
  const client = await compileFloor("echo_client", ["echo_client.c"]);
  const folder = await Deno.makeTempDir({ prefix: "aio_bench_" });
  stack.defer(() => Deno.remove(folder, { recursive: true }));
  const path = `${folder}/echo`;
  const server = stack.use(await startServer(path));
  const connect = (connections: number) =>
    ChildProbe.startProgram(
      client,
      ...["--socket", path, "--connections", `${connections}`],
      ...["--bytes", `${MESSAGE_BYTES}`, "--seconds", `${SECONDS}`],
    );
  return { server, connect };
}

/** Messages in a second, with one in flight on each of 64 connections. */
export async function startEcho(startServer: StartServer): Promise<Probe> {
  await using stack = new AsyncDisposableStack();
  const { connect } = await startPair(stack, startServer);
  const client = stack.use(await connect(CONNECTIONS));
  return keep(stack, () => client.measure());
}

/**
 * What 10,000 idle connections cost: `memoryMB` of the server, and the messages in a second of one
 * busy connection, `beside` them and `alone`.
 *
 * @param startServer the server's figures are `value`, its memory in bytes, and `connections`
 */
export async function startIdle(startServer: StartServer): Promise<Probe> {
  await using stack = new AsyncDisposableStack();
  const pair = await startPair(stack, startServer);
  const busy = stack.use(await pair.connect(1));
  // Later ones would contain what the server keeps of connections that have ended.
  const { value: bytesBefore } = await pair.server.measure();
  return keep(stack, () => measureIdle(pair, busy, bytesBefore));
}

/** A probe that owns what is on the stack. */
function keep(stack: AsyncDisposableStack, measure: Probe["measure"]): Probe {
  const owned = stack.move();
  return { measure, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

async function measureIdle(pair: Pair, busy: ChildProbe, bytesBefore: number): Promise<Figures> {
  const before = await busy.measure();
  const { value, beside } = await besideIdle(pair, busy);
  await waitForOne(pair.server);
  const after = await busy.measure();
  return {
    memoryMB: (value - bytesBefore) / MEGABYTE,
    beside,
    // From both sides in time, so that a machine that becomes slower or faster does not matter.
    alone: (before.messagesPerSecond + after.messagesPerSecond) / 2,
  };
}

async function besideIdle({ server, connect }: Pair, busy: ChildProbe) {
  await using _idle = await connect(IDLE_CONNECTIONS);
  const { value } = await server.measure();
  const { messagesPerSecond: beside } = await busy.measure();
  return { value, beside };
}

/** Waits until the server has but one connection. */
async function waitForOne(server: ChildProbe): Promise<void> {
  for (let question = 0; question < QUESTIONS_MAX; question++) {
    if ((await server.measure()).connections === 1) return;
  }
  throw new CommandError("Cannot measure as the server keeps connections that have ended");
}
