/**
 * What commands that serve until they are told to end have in common: signals and the pid file.
 *
 * SIGTERM and SIGINT end the command in good order, a second one at once; SIGUSR1 has it tell how it
 * is doing.
 */
import { type AioContext, SignalFd } from "../../mod.ts";
import { CommandError } from "./exit.ts";

/** The exit code of a program that a signal has ended is above this by the signal's number. */
const SIGNAL_EXIT = 128;
const SIGINT = 2, SIGTERM = 15;

/** What signals ask for. */
export interface SignalActions {
  readonly end: () => void;
  /** What it throws is nobody's: while the command begins or ends there is nothing to be told. */
  readonly tell: () => Promise<void>;
}

/** Does what signals ask for, until it is disposed. */
export function heedSignals(ctx: AioContext, { end, tell }: SignalActions): Disposable {
  const signals = new SignalFd(["SIGINT", "SIGTERM", "SIGUSR1"]);
  let ending = false;
  const ioRead = (): void => {
    const signal = signals.read()?.signal;
    if (signal === undefined) return;
    if (signal === "SIGUSR1") return void tell().catch(() => {});
    if (ending) Deno.exit(SIGNAL_EXIT + (signal === "SIGINT" ? SIGINT : SIGTERM));
    ending = true;
    end();
  };
  ctx.setFdHandler(signals.fd, { ioRead });
  return {
    [Symbol.dispose]() {
      ctx.setFdHandler(signals.fd, null);
      signals[Symbol.dispose]();
    },
  };
}

/**
 * Writes the process's number into a file, which is removed with what is returned.
 *
 * @param path where; nowhere if undefined
 */
export function writePidFile(path: string | undefined): Disposable | null {
  if (path === undefined) return null;
  const text = `${Deno.pid}\n`;
  try {
    Deno.writeTextFileSync(path, text);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new CommandError(`Cannot write --pid-file ${path} as ${reason}`);
  }
  return {
    [Symbol.dispose]() {
      try {
        // It may be that of a successor by now.
        if (Deno.readTextFileSync(path) === text) Deno.removeSync(path);
      } catch {
        // Somebody was faster.
      }
    },
  };
}
