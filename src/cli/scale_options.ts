/**
 * The options of `scale`, checked and turned into numbers.
 *
 * Everything that can be said of the options alone is said here, before any file or library is
 * opened. Each message names the option and the value. What depends on the machine, the file and
 * the limit of open files, is checked by those who open them.
 */
import type { FdmonName } from "../../mod.ts";
import { UsageError } from "./exit.ts";
import { inRange, oneOf, wholeNumber } from "./option_values.ts";

/** The options as the command line gives them. */
export interface ScaleArguments {
  readonly devices?: string;
  readonly queues?: string;
  readonly iodepth: string;
  readonly bs: string;
  readonly seconds: string;
  readonly idleSeconds: string;
  readonly file?: string;
  readonly removal: string;
  readonly fdmon?: string;
  readonly poll?: string;
  readonly vhost?: boolean;
  readonly sweep?: boolean;
  readonly svg?: string;
  readonly json?: boolean;
}

/** How handlers are polled. */
export type PollForm = "function" | "word";

/** The options of `scale`, ready for use. */
export interface ScaleOptions {
  /** Idle handlers of a single measurement; null asks for the sweep. */
  readonly idleHandlers: number | null;
  /** Queues of an idle device. */
  readonly queues: number;
  /** Devices are disks that are served to a guest over vhost-user. */
  readonly vhost: boolean;
  readonly depth: number;
  readonly blockSize: number;
  readonly seconds: number;
  readonly idleSeconds: number;
  readonly file: string | undefined;
  /** Idle removal of each run, in order. */
  readonly removals: readonly boolean[];
  readonly fdmon: FdmonName | undefined;
  readonly poll: PollForm;
  readonly svg: string | undefined;
  readonly json: boolean;
}

const DEFAULT_DEVICES = 100;
const DEFAULT_QUEUES = 32;
/** What a disk can have. */
const VHOST_QUEUES_MAX = 256;
/** One fd for each; the kernel's own ceiling for open files is 1,048,576. */
const IDLE_HANDLERS_MAX = 1_000_000;
/** Slots in the guest's ring, AIO_GUEST_SLOTS in shim/aio.h. */
const DEPTH_MAX = 256;
/** Reads larger than this no longer measure the loop. */
const BLOCK_SIZE_MAX = 1 << 20;
const SECTOR = 512;
const SECONDS_MAX = 3600;
const SECONDS_MIN = 0.01;
const FDMON_NAMES: readonly FdmonName[] = ["io_uring", "epoll", "poll"];

/** Checks the options; throws a UsageError for the first that cannot be used. */
export function parseScaleOptions(args: ScaleArguments): ScaleOptions {
  const blockSize = wholeNumber("--bs", args.bs, SECTOR, BLOCK_SIZE_MAX);
  if (blockSize % SECTOR !== 0) {
    throw new UsageError(`Cannot use --bs ${args.bs} as it is not a multiple of ${SECTOR}`);
  }
  const removal = oneOf("--removal", args.removal, ["off", "on", "both"]);
  return {
    idleHandlers: parseIdleHandlers(args),
    queues: parseQueues(args),
    vhost: args.vhost === true,
    depth: wholeNumber("--iodepth", args.iodepth, 1, DEPTH_MAX),
    blockSize,
    seconds: seconds("--seconds", args.seconds),
    idleSeconds: seconds("--idle-seconds", args.idleSeconds),
    file: args.file,
    removals: removal === "both" ? [false, true] : [removal === "on"],
    fdmon: args.fdmon === undefined ? undefined : oneOf("--fdmon", args.fdmon, FDMON_NAMES),
    poll: parsePollForm(args),
    svg: parseSvgPath(args.svg),
    json: args.json === true,
  };
}

function parseIdleHandlers(args: ScaleArguments): number | null {
  if (args.sweep === true) {
    const option = args.devices !== undefined ? "--devices" : "--queues";
    const value = args.devices ?? args.queues;
    if (value === undefined) return null;
    throw new UsageError(
      `Cannot use ${option} ${value} as --sweep chooses the number of idle handlers`,
    );
  }
  const devices = args.devices ?? String(DEFAULT_DEVICES);
  const queues = parseQueues(args);
  const idleHandlers = wholeNumber("--devices", devices, 0, IDLE_HANDLERS_MAX) * queues;
  if (idleHandlers > IDLE_HANDLERS_MAX) {
    throw new UsageError(
      `Cannot use --devices ${devices} with --queues ${queues} as that is more than ` +
        `${IDLE_HANDLERS_MAX} idle handlers`,
    );
  }
  return idleHandlers;
}

function parseQueues({ queues, vhost }: ScaleArguments): number {
  const most = vhost === true ? VHOST_QUEUES_MAX : IDLE_HANDLERS_MAX;
  return wholeNumber("--queues", queues ?? String(DEFAULT_QUEUES), 1, most);
}

/** A disk's queues are polled by their words, which the guest writes. */
function parsePollForm({ poll, vhost }: ScaleArguments): PollForm {
  const form = oneOf("--poll", poll ?? (vhost ? "word" : "function"), ["function", "word"]);
  if (!vhost || form === "word") return form;
  throw new UsageError("Cannot use --poll function with --vhost as disks are polled by word");
}

function parseSvgPath(path: string | undefined): string | undefined {
  if (path === undefined) return undefined;
  if (path === "" || path.endsWith("/")) {
    throw new UsageError(`Cannot use --svg "${path}" as it is not the name of a file`);
  }
  return path;
}

function seconds(option: string, text: string): number {
  if (!/^-?(\d+\.?\d*|\.\d+)$/.test(text)) {
    throw new UsageError(`Cannot use ${option} ${text} as it is not a number of seconds`);
  }
  return inRange(option, text, SECONDS_MIN, SECONDS_MAX);
}
