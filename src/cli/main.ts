/**
 * The command line interface: which commands there are, their options and help texts.
 *
 * Each command lives in a file of its own that is imported only when it is called, so that
 * `--help` opens no library and `doctor` works where `scale` does not. This file also turns errors
 * into exit codes: 0 is success, 1 a failure, 2 a usage error.
 *
 * @example Run the main job from a checkout
 * ```sh
 * deno run -A src/cli/main.ts scale --seconds 2
 * ```
 *
 * @module
 */
import { Command, CommanderError, Option } from "commander";
import packageJson from "../../deno.json" with { type: "json" };
import { AioError } from "../../ffi/errno.ts";
import { CommandError, ExitCode, UsageError } from "./exit.ts";

/** Shown in the help text; a test compares it with the rows there are. */
const BENCH_NAMES = "request, idle-3200, idle-16000, removal, kicks, poll-function, poll-word,\n" +
  "  wake-up, wake-up-epoll, poll-nothing, bottom-half, coroutine, timer,\n" +
  "  handler-memory, handler-changes, allocation, cold-start, read-1, read-32, sqe-32,\n" +
  "  read-deno-1, read-deno-32, read-node-1, read-node-32, direct-1, direct-32,\n" +
  "  read-allocation, echo, echo-1, echo-deno, idle-connections, idle-connections-busy,\n" +
  "  message-blocked, message-spinning, message-posted, messages, thread-scaling,\n" +
  "  attached-read, attached-idle, serve";

/** What cannot be guessed from the options of `trace`. */
const TRACE_NOTES = `
A module is imported and gets the arguments as Deno.args; import.meta.main is false in it. Contexts
are traced that it makes in its own thread, from the copy of the library this command belongs to.
The trace keeps the first 500,000 events; it is a whole file whenever the program is killed.`;

/** As qemu-nbd has them. */
const CACHES = "writeback, writethrough, none, directsync or unsafe";

/** What cannot be guessed from the options of `nbd`. */
const NBD_NOTES = `
The first export is the one that clients get who name none; "default" in --export makes it another.
Sockets of socket activation (LISTEN_FDS) are used where there are any. SIGUSR1 prints counters.`;

/** How disks are described to `vhost-user-blk`. */
const VHOST_NOTES = `
Many disks in one process: --device may be repeated, with what the options of the same names say
as name=value: socket, file, num-queues, serial, cache, discard, and the flags read-only and
direct; a comma in a value is written twice. Or --config with {"devices": [{"socket": ...,
"file": ...}]} and the same names. Options hold for all disks that say nothing else.`;

/** How the reader of a help text gets here; there is no installed program of that name. */
const PROGRAM = import.meta.url.startsWith("file:")
  ? "deno run -A src/cli/main.ts"
  : `deno run -A jsr:${packageJson.name}/cli`;

/**
 * Runs one command.
 *
 * @param args the words after the program's name, as `["scale", "--json"]`
 * @returns the exit code; null where what was begun goes on, and the process must
 */
export async function main(args: readonly string[]): Promise<number | null> {
  let exitCode: number | null = ExitCode.ok;
  const program = describeProgram((code) => exitCode = code);
  try {
    await program.parseAsync(args, { from: "user" });
    return exitCode;
  } catch (error) {
    return report(error);
  }
}

function describeProgram(finish: (code: number | null) => void): Command {
  const program = new Command(PROGRAM)
    .description(
      `AioContext for Deno ${packageJson.version}: an event loop that polls while it pays.`,
    )
    .version(packageJson.version, "-V, --version", "print the version")
    .helpOption("-h, --help", "print this help")
    // Finding out by itself, commander would need a permission.
    .configureOutput({ getOutHasColors: () => false, getErrHasColors: () => false })
    .exitOverride()
    // Options after what `trace` traces are for that.
    .enablePositionalOptions()
    .showHelpAfterError("(--help shows what there is)");
  program.addCommand(describeScale(finish));
  program.addCommand(describeBench(finish));
  program.addCommand(describeTrace(finish, program));
  program.addCommand(describeNbd(finish));
  program.addCommand(describeVhostUserBlk(finish));
  program.addCommand(describeDoctor(finish));
  program.addCommand(describeSetup(finish));
  // Subcommands added as objects do not inherit the way errors are handled.
  for (const command of program.commands) command.copyInheritedSettings(program);
  return program;
}

function describeScale(finish: (code: number) => void): Command {
  return new Command("scale")
    .description("Measure one busy device beside idle ones, with and without idle removal.")
    .option("--devices <number>", "idle devices (default: 100)")
    .option("--queues <number>", "queues of each idle device (default: 32)")
    .addOption(option("--iodepth <number>", "requests in flight, 1 to 256", "1"))
    .addOption(option("--bs <bytes>", "bytes of one read, a multiple of 512", "4096"))
    .addOption(option("--seconds <number>", "length of the measurement", "5"))
    .addOption(option("--idle-seconds <number>", "idle interval, after which it begins", "7"))
    .option("--file <path>", "file to read (default: a temporary one of 256 MiB)")
    .addOption(option("--removal <off|on|both>", "removal of idle poll handlers", "both"))
    .option("--fdmon <name>", "io_uring, epoll or poll (default: the best that works)")
    .option("--poll <function|word>", "how handlers are polled (default: function)")
    .option("--vhost", "with disks, served over vhost-user to a guest in a process of its own")
    .option("--sweep", "measure from 0 idle handlers to as many as can be opened")
    .option("--svg <path>", "write a chart")
    .option("--json", "print JSON")
    .addHelpText("after", example("scale --seconds 2 --idle-seconds 2 --svg scale.svg"))
    .action(async (options) => {
      const { scale } = await import("./scale.ts");
      finish(await scale(options));
    });
}

function describeBench(finish: (code: number) => void): Command {
  return new Command("bench")
    .description(
      "Measure what the loop costs here, part by part, against C where there is a floor.",
    )
    .option("--only <names>", "rows to measure, separated by commas (default: all)")
    .addOption(option("--rounds <number>", "rounds, of which the medians are shown", "5"))
    .option("--file <path>", "file to read (default: a temporary one of 256 MiB)")
    .option("--json", "print JSON")
    .addHelpText("after", `\nRows:\n  ${BENCH_NAMES}`)
    .addHelpText("after", example("bench --only request,wake-up"))
    .action(async (options) => {
      const { bench } = await import("./bench.ts");
      finish(await bench(options));
    });
}

function describeTrace(finish: (code: number | null) => void, program: Command): Command {
  return new Command("trace")
    .description("Run scale, or a module of yours, and record what its AioContexts do.")
    .argument("<program>", "scale, or a module: a file or a URL")
    .argument("[arguments...]", "what it is run with")
    .passThroughOptions()
    .addOption(option("--output <path>", "trace file to write, for Perfetto", "trace.json"))
    .addOption(option("--after <seconds>", "when to begin, from the first context on", "0"))
    .option("--seconds <number>", "how long to record (default: to the end)")
    .option("--summary", "print where the time of an iteration goes")
    .option("--json", "print that as JSON; what the program logs goes to stderr")
    .addHelpText("after", TRACE_NOTES)
    .addHelpText("after", example("trace --summary --after 2 --seconds 0.1 scale --removal on"))
    .action(async (name: string, args: string[], options) => {
      const { trace } = await import("./trace.ts");
      finish(await trace(options, [name, ...args], runScale));
    });

  async function runScale(args: readonly string[]): Promise<number> {
    let exitCode: number = ExitCode.ok;
    const scale = describeScale((code) => exitCode = code).copyInheritedSettings(program);
    await scale.parseAsync(args, { from: "user" });
    return exitCode;
  }
}

function describeNbd(finish: (code: number) => void): Command {
  const several = (value: string, before: string[] = []) => [...before, value];
  return new Command("nbd")
    .description("Serve files as network block devices (NBD) until SIGTERM or SIGINT.")
    .argument("[file...]", "files or disks; the name of each is that of its export")
    .option("--export <list>", "one with a name: name=N,file=F,description=D,read-only", several)
    .option("--memory <size>", "a disk in memory, empty at first, as 512M", several)
    .option("-k, --socket <path>", "unix socket to listen on")
    .option("--socket-mode <mode>", "permissions of the socket, as 660 (default: by umask)")
    .option("--address <host:port>", "TCP address to listen on (default: 127.0.0.1:10809)")
    .option("-r, --read-only", "let nothing be changed")
    .option("--direct", "go past the page cache (O_DIRECT)")
    .addOption(option("--cache <mode>", CACHES, "writeback"))
    .addOption(option("--discard <ignore|unmap>", "what to do when clients trim", "unmap"))
    .addOption(option("-e, --shared <number>", "connections at a time, 0 for no limit", "0"))
    .addOption(option("--threads <number>", "threads that connections are spread over", "1"))
    .option("--fdmon <name>", "io_uring, epoll or poll (default: the best that works)")
    .option("--poll-max-ns <ns>", "longest time to poll, 0 for never (default: 131072)")
    .option("--poll-grow <factor>", "factor by which that time grows")
    .option("--poll-shrink <divisor>", "divisor by which it shrinks")
    .option("--poll-idle-ns <ns>", "time after which what is idle is not polled")
    .option("--poll-weight <number>", "how slowly the mean time between events follows")
    .option("--pid-file <path>", "write the process id there, once it listens")
    .option("--json", "print JSON: once it listens, on SIGUSR1 and at the end")
    .option("-v, --verbose", "say why connections have failed")
    .addHelpText("after", NBD_NOTES)
    .addHelpText("after", example("nbd --socket /tmp/disk.sock disk.img"))
    .action(async (files: string[], options) => {
      const { nbd } = await import("./nbd.ts");
      finish(await nbd(options, files));
    });
}

function describeVhostUserBlk(finish: (code: number) => void): Command {
  const several = (value: string, before: string[] = []) => [...before, value];
  return new Command("vhost-user-blk")
    .description("Serve files as disks of virtual machines until SIGTERM or SIGINT.")
    .argument("[file]", "what to serve: a file or a disk")
    .option("-k, --socket <path>", "unix socket that the virtual machine connects to")
    .option("--num-queues <number>", "queues that a guest may use (default: 1)")
    .option("--serial <text>", "serial number that a guest sees")
    .option("-r, --read-only", "let nothing be changed")
    .option("--direct", "go past the page cache (O_DIRECT)")
    .option("--cache <mode>", `${CACHES} (default: writeback)`)
    .option("--discard <ignore|unmap>", "what to do when guests discard (default: unmap)")
    .option("--device <list>", "one more disk: socket=S,file=F[,num-queues=N...]", several)
    .option("--config <path>", "disks in a file of JSON")
    .addOption(option("--threads <number>", "threads that the disks are spread over", "1"))
    .option("--fdmon <name>", "io_uring, epoll or poll (default: the best that works)")
    .option("--poll-max-ns <ns>", "longest time to poll before sleeping, 0 for never")
    .option("--poll-grow <factor>", "factor by which that time grows")
    .option("--poll-shrink <divisor>", "divisor by which it shrinks")
    .option("--poll-idle-ns <ns>", "time after which what is idle is not polled")
    .option("--poll-weight <number>", "how slowly the mean time between events follows")
    .option("--pid-file <path>", "write the process id there, once all listen")
    .option("--json", "print JSON: once all listen, on SIGUSR1 and at the end")
    .addHelpText("after", VHOST_NOTES)
    .addHelpText("after", example("vhost-user-blk --socket /tmp/disk.sock --num-queues 4 disk.img"))
    .action(async (file: string | undefined, options) => {
      const { vhostUserBlk } = await import("./vhost_user_blk.ts");
      finish(await vhostUserBlk(options, file));
    });
}

function describeDoctor(finish: (code: number) => void): Command {
  return new Command("doctor")
    .description("Say which backend would be used, what is missing and what to do about it.")
    .option("--json", "print JSON")
    .addHelpText("after", example("doctor --json"))
    .action(async (options: { json?: boolean }) => {
      const { doctor } = await import("./doctor.ts");
      finish(await doctor({ json: options.json === true }));
    });
}

function describeSetup(finish: (code: number) => void): Command {
  return new Command("setup")
    .description("Install what is missing with the system's package manager, or say how.")
    .option("--for <run|bench|test|guest>", "what it is needed for", "run")
    .addHelpText("after", example("setup --for test"))
    .action(async (options: { for: string }) => {
      const need = options.for;
      if (need !== "run" && need !== "bench" && need !== "test" && need !== "guest") {
        throw new UsageError(
          `Cannot use --for ${need || '""'} as it is not run, bench, test or guest`,
        );
      }
      const { setup } = await import("./setup.ts");
      finish(await setup({ for: need }));
    });
}

/** An option whose default is shown as the user would type it. */
function option(flags: string, description: string, value: string): Option {
  return new Option(flags, description).default(value, value);
}

function example(args: string): string {
  return `\nExample:\n  ${PROGRAM} ${args}`;
}

/** Shows an error to the user; rethrows what is not for users but our own mistake. */
function report(error: unknown): number {
  if (error instanceof CommanderError) {
    // Commander has printed its message already; asking for help is not an error.
    return error.exitCode === 0 ? ExitCode.ok : ExitCode.usage;
  }
  if (error instanceof UsageError) {
    console.error(`error: ${error.message}`);
    return ExitCode.usage;
  }
  if (
    error instanceof CommandError || error instanceof AioError ||
    error instanceof Deno.errors.NotCapable
  ) {
    console.error(`error: ${error.message}`);
    return ExitCode.failure;
  }
  throw error;
}

if (import.meta.main) {
  const exitCode = await main(Deno.args);
  if (exitCode !== null) Deno.exit(exitCode);
}
