/**
 * Echo servers and the client they share, as something `bench` can measure.
 *
 * A server is a process that listens on a unix socket and ends with its standard input; the client
 * is bench/echo_client.c for all of them. Both stay for all rounds, and their connections too.
 */
import type { Figures } from "./bench_child.ts";
import { ChildProbe, compileFloor, type Probe } from "./bench_probe.ts";

const CONNECTIONS = 64, IDLE_CONNECTIONS = 10_000;
const MESSAGE_BYTES = 64;
const SECONDS = 0.25;
/**
 * Beside idle connections and without them in turn, in short windows: where the scheduler puts a
 * server and its client makes a difference of several times, and it changes its mind.
 */
const SHORT_WINDOWS = 10, SHORT_SECONDS = 0.05;
/** Until a server's code is compiled and its heap has grown, which idle connections do not cause. */
const WARM_UP_WINDOWS = 20;
const MEGABYTE = 1e6;

/** Starts a server that listens at this path. */
export type StartServer = (path: string) => Promise<ChildProbe>;

/** A running server, and how to connect to it. */
interface Pair {
  readonly server: ChildProbe;
  readonly connect: (connections: number, seconds: number) => Promise<ChildProbe>;
}

async function startPair(stack: AsyncDisposableStack, startServer: StartServer): Promise<Pair> {
  const client = await compileFloor("echo_client", ["echo_client.c"]);
  const folder = await Deno.makeTempDir({ prefix: "aio_bench_" });
  stack.defer(() => Deno.remove(folder, { recursive: true }));
  const path = `${folder}/echo`;
  const server = stack.use(await startServer(path));
  const connect = (connections: number, seconds: number) =>
    ChildProbe.startProgram(
      client,
      ...["--socket", path, "--connections", `${connections}`],
      ...["--bytes", `${MESSAGE_BYTES}`, "--seconds", `${seconds}`],
    );
  return { server, connect };
}

/** Messages in a second, with one in flight on each connection. */
export async function startEcho(
  startServer: StartServer,
  connections = CONNECTIONS,
): Promise<Probe> {
  await using stack = new AsyncDisposableStack();
  const { connect } = await startPair(stack, startServer);
  const client = stack.use(await connect(connections, SECONDS));
  return keep(stack, () => client.measure());
}

/**
 * What 10,000 idle connections cost: `memoryMB` of the server, and the messages in a second of one
 * busy connection, `beside` them and `alone` at another server of the kind.
 *
 * @param startServer the server's figure is its memory in bytes
 */
export async function startIdle(startServer: StartServer): Promise<Probe> {
  await using stack = new AsyncDisposableStack();
  const [, alone] = await startWarm(stack, startServer);
  const [{ server, connect }, beside] = await startWarm(stack, startServer);
  const { value: bytesBefore } = await server.measure();
  stack.use(await connect(IDLE_CONNECTIONS, SECONDS));
  return keep(stack, async () => {
    const { value } = await server.measure();
    return {
      memoryMB: (value - bytesBefore) / MEGABYTE,
      ...await measureInTurn({ alone, beside }),
    };
  });
}

/** A server and its busy client. */
async function startWarm(
  stack: AsyncDisposableStack,
  startServer: StartServer,
): Promise<[pair: Pair, busy: ChildProbe]> {
  const pair = await startPair(stack, startServer);
  const busy = stack.use(await pair.connect(1, SHORT_SECONDS));
  for (let window = 0; window < WARM_UP_WINDOWS; window++) await busy.measure();
  return [pair, busy];
}

/** Messages in a second of each client. */
async function measureInTurn(clients: Readonly<Record<string, ChildProbe>>): Promise<Figures> {
  const sums = Object.fromEntries(Object.keys(clients).map((name) => [name, 0]));
  for (let window = 0; window < SHORT_WINDOWS; window++) {
    for (const [name, client] of Object.entries(clients)) {
      sums[name] += (await client.measure()).messagesPerSecond / SHORT_WINDOWS;
    }
  }
  return sums;
}

/** A probe that owns what is on the stack. */
function keep(stack: AsyncDisposableStack, measure: Probe["measure"]): Probe {
  const owned = stack.move();
  return { measure, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}
