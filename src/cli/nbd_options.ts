/**
 * The options of `nbd`, checked and turned into what they mean.
 *
 * Everything that can be said of the options alone is said here, before any file or socket is opened.
 */
import type { FdmonName, IpAddress, PollParams } from "../../mod.ts";
import type { FileBlockDeviceOptions } from "../block/mod.ts";
import { UsageError } from "./exit.ts";
import { type DiskPlan, planDisks } from "./nbd_plan.ts";
import { oneOf, wholeNumber } from "./option_values.ts";
import { parsePollParams, type PollArguments } from "./poll_options.ts";

/** The options as the command line gives them. */
export interface NbdArguments extends PollArguments {
  readonly export?: readonly string[];
  readonly memory?: readonly string[];
  readonly socket?: string;
  readonly socketMode?: string;
  readonly address?: string;
  readonly readOnly?: boolean;
  readonly direct?: boolean;
  readonly cache: string;
  readonly discard: string;
  readonly shared: string;
  readonly threads: string;
  readonly fdmon?: string;
  readonly pidFile?: string;
  readonly json?: boolean;
  readonly verbose?: boolean;
}

/** A unix socket that is to be made. */
export interface UnixPlan {
  readonly path: string;
  /** Permission bits; the umask decides where there are none. */
  readonly mode: number | undefined;
}

/** The options, ready for use. */
export interface NbdOptions {
  readonly disks: readonly DiskPlan[];
  readonly device: FileBlockDeviceOptions;
  readonly socket: UnixPlan | undefined;
  readonly address: IpAddress | undefined;
  /** Connections at a time; 0 for no limit. */
  readonly shared: number;
  /** Threads that serve; this one alone where it is 1. */
  readonly threads: number;
  readonly context: {
    readonly fdmon: FdmonName | undefined;
    readonly pollParams: Partial<PollParams>;
  };
  readonly pidFile: string | undefined;
  readonly json: boolean;
  readonly verbose: boolean;
}

/** The port that IANA has given to NBD. */
const PORT = 10_809, PORT_MAX = 65_535;
const LOOPBACK = "127.0.0.1";
const SHARED_MAX = 1_000_000, THREADS_MAX = 256;
/** A second; nothing is worth more polling. */
/**
 * Longer than a context polls by default: a client that waits for each answer takes 20 to 100 us to come
 * back, as it has to wake up. Reads one by one were 1.2 to 1.9 times as many.
 */
const POLL_DEFAULT_NS = 131_072;
const FDMON_NAMES: readonly FdmonName[] = ["io_uring", "epoll", "poll"];
const CACHES = ["writeback", "writethrough", "none", "directsync", "unsafe"] as const;

/** Checks the options; throws a UsageError for the first that cannot be used. */
export function parseNbdOptions(args: NbdArguments, files: readonly string[]): NbdOptions {
  const readOnly = args.readOnly === true;
  return {
    disks: planDisks(files, args.export ?? [], args.memory ?? [], readOnly),
    device: parseDevice(args),
    socket: parseSocket(args),
    address: args.address === undefined ? undefined : parseAddress(args.address),
    shared: wholeNumber("--shared", args.shared, 0, SHARED_MAX),
    threads: wholeNumber("--threads", args.threads, 1, THREADS_MAX),
    context: {
      fdmon: args.fdmon === undefined ? undefined : oneOf("--fdmon", args.fdmon, FDMON_NAMES),
      pollParams: pollParamsOf(args),
    },
    pidFile: args.pidFile === undefined ? undefined : fileName("--pid-file", args.pidFile),
    json: args.json === true,
    verbose: args.verbose === true,
  };
}

/** Where clients find us if nobody says anything. */
export const DEFAULT_ADDRESS: IpAddress = { hostname: LOOPBACK, port: PORT };

function parseDevice(args: NbdArguments): FileBlockDeviceOptions {
  const cache = oneOf("--cache", args.cache, CACHES);
  const discard = oneOf("--discard", args.discard, ["ignore", "unmap"]) === "unmap";
  const direct = args.direct === true || cache === "none" || cache === "directsync";
  return { direct, discard, cache: cache === "directsync" ? "writethrough" : cache };
}

function parseSocket(args: NbdArguments): UnixPlan | undefined {
  const { socket, socketMode } = args;
  if (socket === undefined) {
    if (socketMode === undefined) return undefined;
    throw new UsageError(`Cannot use --socket-mode ${socketMode} as there is no --socket`);
  }
  const path = fileName("--socket", socket);
  if (socketMode === undefined) return { path, mode: undefined };
  if (!/^0?[0-7]{3}$/.test(socketMode)) {
    throw new UsageError(`Cannot use --socket-mode ${socketMode} as it is not a mode, such as 660`);
  }
  return { path, mode: parseInt(socketMode, 8) };
}

/** `HOST:PORT`, either of which may be left out; IPv6 in brackets. */
function parseAddress(text: string): IpAddress {
  const [all, ipv6, host, port] = /^(?:\[(.*)\]|([^:]*))(?::(\d+))?$/.exec(text) ?? [];
  if (!all) throw new UsageError(`Cannot use --address ${text || '""'} as it is not HOST:PORT`);
  if (port === undefined && /^\d+$/.test(text)) return parseAddress(`:${text}`);
  const number = port === undefined ? PORT : Number(port);
  if (number > PORT_MAX) {
    throw new UsageError(`Cannot use --address ${text} as its port is above ${PORT_MAX}`);
  }
  return { hostname: ipv6 ?? (host || LOOPBACK), port: number };
}

/** With one processor whoever is waited for could not go on meanwhile, and nothing is polled for. */
function pollParamsOf(args: NbdArguments): Partial<PollParams> {
  const given = parsePollParams(args);
  return navigator.hardwareConcurrency === 1 ? given : { maxNs: POLL_DEFAULT_NS, ...given };
}

function fileName(option: string, path: string): string {
  if (path !== "" && !path.endsWith("/")) return path;
  throw new UsageError(`Cannot use ${option} "${path}" as it is not the name of a file`);
}
