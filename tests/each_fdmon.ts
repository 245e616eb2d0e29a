/**
 * Runs a test once on each backend, chosen by name.
 *
 * A backend that cannot be had here is a skip that the report shows, with the reason on the line.
 */
import "./open_libraries.ts";
import { AioContext, type AioContextOptions, AioError, type FdmonName } from "../mod.ts";

/** All backends. */
export const FDMONS: readonly FdmonName[] = ["io_uring", "epoll", "poll"];

const missing = new Map<FdmonName, string>();
for (const fdmon of FDMONS) {
  try {
    new AioContext({ fdmon })[Symbol.dispose]();
  } catch (error) {
    if (!(error instanceof AioError)) throw error;
    missing.set(fdmon, error.message);
  }
}

/** Makes a context on the backend under test; other options may be given. */
export type MakeContext = (options?: AioContextOptions) => AioContext;

/** Registers `name (backend)` for each backend, or for those given. */
export function eachFdmon(
  name: string,
  test: (makeContext: MakeContext, fdmon: FdmonName) => void | Promise<void>,
  fdmons: readonly FdmonName[] = FDMONS,
): void {
  for (const fdmon of fdmons) {
    const reason = missing.get(fdmon);
    Deno.test({
      name: `${name} (${fdmon}${reason === undefined ? "" : `, skipped: ${reason}`})`,
      ignore: reason !== undefined,
      fn: () => test((options) => new AioContext({ fdmon, ...options }), fdmon),
    });
  }
}

/** Registers a test for io_uring alone. */
export function onIoUring(
  name: string,
  test: (makeContext: MakeContext) => void | Promise<void>,
): void {
  eachFdmon(name, test, ["io_uring"]);
}
