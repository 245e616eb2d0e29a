/**
 * The options of `vhost-user-blk`, checked and turned into what is served and how.
 *
 * A disk is described in three ways that mean the same: by options of their own and a file, by
 * `--device name=value,...`, and by an object in the file of `--config`. What is given as an option
 * also holds for disks described in the other ways that say nothing of it.
 */
import type { AioContextOptions, FdmonName } from "../../mod.ts";
import { CommandError, UsageError } from "./exit.ts";
import { oneOf, wholeNumber } from "./option_values.ts";
import { parsePollParams, type PollArguments } from "./poll_options.ts";

/** The options as the command line gives them. */
export interface VhostArguments extends PollArguments {
  readonly socket?: string;
  readonly numQueues?: string;
  readonly serial?: string;
  readonly readOnly?: boolean;
  readonly direct?: boolean;
  readonly cache?: string;
  readonly discard?: string;
  readonly device?: readonly string[];
  readonly config?: string;
  readonly threads: string;
  readonly fdmon?: string;
  readonly pollMaxNs?: string;
  readonly pollGrow?: string;
  readonly pollShrink?: string;
  readonly pollWeight?: string;
  readonly pollIdleNs?: string;
  readonly pidFile?: string;
  readonly json?: boolean;
}

const FDMON_NAMES: readonly FdmonName[] = ["io_uring", "epoll", "poll"];
const CACHES = ["writeback", "writethrough", "none", "directsync", "unsafe"] as const;
const DISCARDS = ["ignore", "unmap"] as const;

/** A disk that is to be served. */
export interface DiskPlan {
  readonly socket: string;
  readonly file: string;
  readonly numQueues: number;
  readonly serial: string;
  readonly readOnly: boolean;
  readonly direct: boolean;
  readonly cache: "writeback" | "writethrough" | "unsafe";
  /** What a guest discards is given back to the system. */
  readonly discard: boolean;
}

/** The options of `vhost-user-blk`, ready for use. */
export interface VhostOptions {
  readonly disks: readonly DiskPlan[];
  /** Threads that serve; this one alone where it is 1. */
  readonly threads: number;
  readonly context: Pick<AioContextOptions, "fdmon" | "pollParams">;
  readonly pidFile: string | undefined;
  readonly json: boolean;
}

const QUEUES_MAX = 256, SERIAL_MAX = 20, THREADS_MAX = 256;
/** Bytes of a path in a unix socket's address, its end included. */
const SOCKET_PATH_MAX = 107;
/** A second; nothing is worth more polling. */

/** Names in `--device` and `--config`, and whether they stand for yes or no. */
const DEVICE_NAMES: Readonly<Record<string, "text" | "flag">> = {
  socket: "text",
  file: "text",
  "num-queues": "text",
  serial: "text",
  cache: "text",
  discard: "text",
  "read-only": "flag",
  direct: "flag",
};

/** What was said of a disk, by the names above; `where` says where for messages. */
interface Description {
  readonly where: string;
  readonly values: ReadonlyMap<string, string | boolean>;
}

/** Checks the options; throws a UsageError for the first that cannot be used. */
export function parseVhostOptions(args: VhostArguments, file: string | undefined): VhostOptions {
  const descriptions = [...describeOwn(args, file)];
  for (const text of args.device ?? []) descriptions.push(parseDevice(text));
  if (args.config !== undefined) descriptions.push(...readConfig(args.config));
  if (descriptions.length === 0) {
    throw new UsageError("Cannot serve as there is no FILE, no --device and no --config");
  }
  const disks = descriptions.map((description) => planDisk(description, args));
  requireDifferent(disks);
  return {
    disks,
    threads: wholeNumber("--threads", args.threads, 1, THREADS_MAX),
    context: {
      fdmon: args.fdmon === undefined ? undefined : oneOf("--fdmon", args.fdmon, FDMON_NAMES),
      pollParams: parsePollParams(args),
    },
    pidFile: args.pidFile,
    json: args.json === true,
  };
}

/** The disk of the options themselves, where there is one. */
function* describeOwn({ socket, serial }: VhostArguments, file?: string): Iterable<Description> {
  if (file === undefined) {
    const [option, value] = socket !== undefined ? ["--socket", socket] : ["--serial", serial];
    if (value === undefined) return;
    throw new UsageError(`Cannot use ${option} ${value} as there is no FILE that it is for`);
  }
  if (socket === undefined) {
    throw new UsageError(`Cannot serve ${file} as there is no --socket to listen on`);
  }
  const values = new Map([["file", file], ["socket", socket]]);
  if (serial !== undefined) values.set("serial", serial);
  yield { where: "", values };
}

/** `name=value,...`: a comma in a value is written twice, as for QEMU. */
function parseDevice(text: string): Description {
  const where = `--device ${text}`;
  const values = new Map<string, string | boolean>();
  for (const part of text.match(/(?:[^,]|,,)+/g) ?? []) {
    const [, name, value] = /^([^=]*)=?(.*)$/s.exec(part.replaceAll(",,", ","))!;
    const hasValue = part.includes("=");
    const kind = kindOf(name, where);
    if (kind === "flag") values.set(name, !hasValue || readFlag(name, value, where));
    else if (hasValue) values.set(name, value);
    else throw new UsageError(`Cannot use ${where} as ${name} has no value`);
  }
  return { where, values };
}

function readFlag(name: string, value: string, where: string): boolean {
  if (value === "on" || value === "off") return value === "on";
  throw new UsageError(`Cannot use ${where} as ${name} is neither on nor off: ${value}`);
}

/** Reads `{ "devices": [{ "socket": ..., "file": ..., "num-queues": ... }, ...] }`. */
function readConfig(path: string): Description[] {
  let text: string, config: unknown;
  try {
    text = Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    throw new CommandError(`Cannot read --config ${path} as ${reason(error)}`);
  }
  try {
    config = JSON.parse(text);
  } catch (error) {
    throw new UsageError(`Cannot use --config ${path} as it is not JSON: ${reason(error)}`);
  }
  const devices = (config as { devices?: unknown } | null)?.devices;
  if (!Array.isArray(devices)) {
    throw new UsageError(`Cannot use --config ${path} as it has no array "devices"`);
  }
  return devices.map((device, index) => {
    const where = `--config ${path}, device ${index + 1},`;
    if (typeof device !== "object" || device === null) {
      throw new UsageError(`Cannot use ${where} as it is no object: ${JSON.stringify(device)}`);
    }
    return { where, values: new Map(Object.entries(device).map((one) => readEntry(one, where))) };
  });
}

function readEntry([name, value]: [string, unknown], where: string): [string, string | boolean] {
  const wanted = kindOf(name, where) === "flag" ? ["boolean"] : ["string", "number"];
  if (!wanted.includes(typeof value)) {
    throw new UsageError(
      `Cannot use ${where} as ${name} is no ${wanted[0]}: ${JSON.stringify(value)}`,
    );
  }
  return [name, typeof value === "number" ? String(value) : value as string | boolean];
}

function kindOf(name: string, where: string): "text" | "flag" {
  if (Object.hasOwn(DEVICE_NAMES, name)) return DEVICE_NAMES[name];
  const names = Object.keys(DEVICE_NAMES).join(", ");
  throw new UsageError(`Cannot use ${where} as "${name}" is not one of ${names}`);
}

function planDisk({ where, values }: Description, args: VhostArguments): DiskPlan {
  const text = (name: string, fallback: string | undefined) =>
    (values.get(name) ?? fallback) as string | undefined;
  const [file, socket, serial = ""] = [text("file", ""), text("socket", ""), text("serial", "")];
  const option = (name: string) => where === "" ? `--${name}` : `${where} with ${name}`;
  if (!file) throw new UsageError(`Cannot use ${where || "FILE"} as it names no file`);
  if (!socket) throw new UsageError(`Cannot use ${option("socket")} as it names no socket`);
  if (new TextEncoder().encode(socket).length > SOCKET_PATH_MAX) {
    throw new UsageError(
      `Cannot use ${option("socket")} as a socket's path has at most ${SOCKET_PATH_MAX} bytes: ` +
        socket,
    );
  }
  if (!/^[\x20-\x7e]*$/.test(serial) || serial.length > SERIAL_MAX) {
    throw new UsageError(
      `Cannot use ${option("serial")} as it is not up to ${SERIAL_MAX} characters of ASCII: ` +
        JSON.stringify(serial),
    );
  }
  const flag = (name: string, fallback = false) => (values.get(name) ?? fallback) as boolean;
  const cache = oneOf(option("cache"), text("cache", args.cache) ?? "writeback", CACHES);
  const queues = text("num-queues", args.numQueues) ?? "1";
  return {
    file,
    socket,
    serial,
    numQueues: wholeNumber(option("num-queues"), queues, 1, QUEUES_MAX),
    cache: cache === "directsync" ? "writethrough" : cache === "none" ? "writeback" : cache,
    discard: oneOf(option("discard"), text("discard", args.discard) ?? "unmap", DISCARDS) ===
      "unmap",
    readOnly: flag("read-only", args.readOnly),
    direct: flag("direct", args.direct) || cache === "none" || cache === "directsync",
  };
}

function requireDifferent(disks: readonly DiskPlan[]): void {
  const seen = new Set<string>();
  for (const { socket } of disks) {
    if (seen.has(socket)) {
      throw new UsageError(`Cannot use the socket ${socket} as two disks would listen on it`);
    }
    seen.add(socket);
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
