/**
 * What the `doctor` command finds out, as data.
 *
 * Each part is looked at for itself and by trying it: the shim and liburing are loaded, rings are
 * set up with every flag, a context is made. A part that fails never hides the others. Invariant:
 * whatever keeps a context from the best backend has one line in `advice` that says what to do.
 * Showing all this is left to doctor.ts.
 */
import { createHash } from "node:crypto";
import { AioError, Errno, errnoName } from "../../ffi/errno.ts";
import { RingLayout } from "../../ffi/layout.ts";
import {
  liburingOrigin,
  loadLiburing,
  loadShim,
  missingPermissions,
  type ShimOrigin,
  shimOrigin,
} from "../../ffi/library.ts";
import type { Liburing } from "../../ffi/liburing_symbols.ts";
import { SetupFlag } from "../../ffi/ring_setup.ts";
import { AioContext, type FdmonInfo } from "../../mod.ts";
import { diagnoseProcessors, type Processors } from "./doctor_processors.ts";

const { io_uring: RING, io_uring_params: PARAMS } = RingLayout;
const TRIAL_ENTRIES = 4;

/** A device takes an fd, and the main job has 3,200 of them; half of it is for everything else. */
const OPEN_FILES_WANTED = 4096;

/** What a ring can be asked for: how to see it, and the Linux that first had it. */
interface RingFeature {
  readonly name: string;
  readonly since: string;
  /** Flags of a trial setup that fails without it. */
  readonly setupFlags?: number;
  /** Its bit among the features that every setup reports. */
  readonly featureBit?: number;
}

const RING_FEATURES: readonly RingFeature[] = [
  { name: "EXT_ARG", since: "5.11", featureBit: 1 << 8 },
  { name: "COOP_TASKRUN", since: "5.19", setupFlags: SetupFlag.coopTaskrun },
  {
    name: "TASKRUN_FLAG",
    since: "5.19",
    setupFlags: SetupFlag.coopTaskrun | SetupFlag.taskrunFlag,
  },
  { name: "SINGLE_ISSUER", since: "6.0", setupFlags: SetupFlag.singleIssuer },
  {
    name: "DEFER_TASKRUN",
    since: "6.1",
    setupFlags: SetupFlag.singleIssuer | SetupFlag.deferTaskrun,
  },
  { name: "NO_IOWAIT", since: "6.15", featureBit: 1 << 17 },
];

/** A soft and a hard limit; Infinity where there is none, which JSON shows as null. */
export interface Limit {
  readonly soft: number;
  readonly hard: number;
}

/** What was found. null stands for "not known here". */
export interface DoctorReport {
  readonly system: { kernel: string | null; processors: number; arch: string; deno: string };
  readonly processors: Processors;
  readonly shim: Partial<ShimOrigin> & { error: string | null };
  readonly liburing: { path: string; version: string | null; error: string | null };
  readonly ioUring: {
    /** Why it does not work; null when it does. */
    error: string | null;
    /** The sysctl kernel.io_uring_disabled: 0 on, 1 for a group, 2 off. */
    disabledSysctl: number | null;
    /** Whether a seccomp filter is on this process. */
    seccompFilter: boolean | null;
    /** "yes", or why not. */
    features: Record<string, string>;
  };
  readonly limits: { openFiles: Limit | null; lockedMemoryBytes: Limit | null };
  /** The backend a context gets, and why. */
  readonly backend: FdmonInfo | null;
  /** Flags that Deno has to be run with. */
  readonly missingPermissions: string[];
  /** What to do, one line for each problem. */
  readonly advice: string[];
}

/** Looks at everything. */
export function makeDoctorReport(): DoctorReport {
  const advice: string[] = [];
  const limits = readLimits();
  if (limits.openFiles !== null && limits.openFiles.soft < OPEN_FILES_WANTED) {
    // Deno raises the soft limit itself, so what is left is the hard one.
    advice.push(
      `only ${limits.openFiles.soft} open files, and every device takes one: have the hard limit ` +
        "raised (ulimit -n as root, docker run --ulimit nofile=N, LimitNOFILE=N of systemd)",
    );
  }
  const shim = diagnoseShim(advice);
  const { liburing, symbols } = diagnoseLiburing(advice);
  const ioUring = diagnoseIoUring(symbols, advice);
  const backend = diagnoseBackend(advice);
  if (backend !== null && backend.name !== "io_uring" && ioUring.error === null) {
    advice.push(`io_uring is not used: ${backend.reason}`);
  }
  const processors = diagnoseProcessors(readProc, advice);
  const missing = missingPermissions();
  if (missing.length > 0) advice.push(`run Deno with ${missing.join(" ")}`);
  return {
    system: {
      kernel: ifPermitted({ name: "sys", kind: "osRelease" }, () => Deno.osRelease()),
      processors: navigator.hardwareConcurrency,
      arch: Deno.build.arch,
      deno: Deno.version.deno,
    },
    processors,
    shim,
    liburing,
    ioUring,
    limits,
    backend,
    missingPermissions: missing,
    advice: [...new Set(advice)],
  };
}

function diagnoseShim(advice: string[]): DoctorReport["shim"] {
  let origin: Partial<ShimOrigin> = {};
  try {
    origin = shimOrigin();
    origin = { ...origin, sha256: origin.sha256 ?? hashFile(origin.path!) };
    loadShim();
    return { ...origin, error: null };
  } catch (error) {
    return { ...origin, error: keepAdvice(error, advice) };
  }
}

function hashFile(path: string): string | undefined {
  try {
    return createHash("sha256").update(Deno.readFileSync(path)).digest("hex");
  } catch {
    // Not readable, not permitted or a bare name: the hash is for information only.
    return undefined;
  }
}

function diagnoseLiburing(
  advice: string[],
): { liburing: DoctorReport["liburing"]; symbols: Liburing | undefined } {
  const { path } = liburingOrigin();
  try {
    const symbols = loadLiburing();
    const loaded = findMapped(path) ?? path;
    // Releases before 2.4 cannot say their version, but their file is named after it.
    const version = /\.so\.(\d+\.\d+\S*)$/.exec(loaded)?.[1] ?? null;
    return { liburing: { path: loaded, version, error: null }, symbols };
  } catch (error) {
    const message = keepAdvice(error, advice);
    return { liburing: { path, version: null, error: message }, symbols: undefined };
  }
}

/** The file behind a library that is loaded, with links resolved. */
function findMapped(path: string): string | undefined {
  const name = path.startsWith("/")
    ? ifPermitted({ name: "read", path }, () => Deno.realPathSync(path))
    : `/${path}`;
  if (name === null) return undefined;
  const maps = readProc("/proc/self/maps") ?? "";
  return maps.split("\n").map((line) => line.slice(line.indexOf("/"))).find((file) =>
    file.includes(name)
  );
}

function diagnoseIoUring(
  liburing: Liburing | undefined,
  advice: string[],
): DoctorReport["ioUring"] {
  const sysctl = readProc("/proc/sys/kernel/io_uring_disabled");
  const seccomp = /^Seccomp:\s*(\d)/m.exec(readProc("/proc/self/status") ?? "")?.[1];
  const found = {
    disabledSysctl: sysctl === null ? null : Number(sysctl),
    seccompFilter: seccomp === undefined ? null : seccomp === "2",
  };
  if (liburing === undefined) {
    const reason = "liburing is not loaded";
    return { error: reason, ...found, features: noFeatures(reason) };
  }
  const { result, features } = trySetup(liburing, 0);
  if (result >= 0) {
    return { error: null, ...found, features: diagnoseFeatures(liburing, features, advice) };
  }
  const { reason, remedy } = explainRefusal(-result, found.disabledSysctl, found.seccompFilter);
  advice.push(`io_uring is off: ${remedy}`);
  return { error: reason, ...found, features: noFeatures("io_uring is off") };
}

function trySetup(liburing: Liburing, flags: number): { result: number; features: number } {
  const ring = new Uint8Array(RING.sizeof);
  const params = new Uint32Array(PARAMS.sizeof / 4);
  params[PARAMS.flags / 4] = flags;
  const result = liburing.io_uring_queue_init_params(
    TRIAL_ENTRIES,
    ring,
    new Uint8Array(params.buffer),
  );
  if (result >= 0) liburing.io_uring_queue_exit(ring);
  return { result, features: params[PARAMS.features / 4] };
}

function diagnoseFeatures(
  liburing: Liburing,
  features: number,
  advice: string[],
): Record<string, string> {
  const answers: Record<string, string> = {};
  let newest: string | undefined;
  for (const { name, since, setupFlags = 0, featureBit = 0 } of RING_FEATURES) {
    const { result } = setupFlags === 0 ? { result: 0 } : trySetup(liburing, setupFlags);
    const works = result >= 0 && (features & featureBit) === featureBit;
    const refusal = result < 0 ? `, setup says ${errnoName(-result)}` : "";
    answers[name] = works ? "yes" : `no: came with Linux ${since}${refusal}`;
    if (!works) newest = since;
  }
  if (newest !== undefined) {
    advice.push(`io_uring can do less here than it could: Linux ${newest} or later has all of it`);
  }
  return answers;
}

function noFeatures(reason: string): Record<string, string> {
  return Object.fromEntries(RING_FEATURES.map(({ name }) => [name, `no: ${reason}`]));
}

/** Why a plain setup is refused; the errno alone does not tell who did it. */
function explainRefusal(
  errno: number,
  sysctl: number | null,
  seccompFilter: boolean | null,
): { reason: string; remedy: string } {
  const refusal = `io_uring_setup says ${errnoName(errno)}`;
  if (errno === Errno.EPERM && sysctl !== null && sysctl > 0) {
    return {
      reason: `${refusal}: the sysctl kernel.io_uring_disabled is ${sysctl}`,
      remedy: "as root, sysctl -w kernel.io_uring_disabled=0",
    };
  }
  const refused = errno === Errno.EPERM || errno === Errno.ENOSYS;
  if (refused && seccompFilter === null) {
    return {
      reason: refusal,
      remedy: "run doctor with --allow-all, which can tell who forbids it",
    };
  }
  if (refused && seccompFilter === true) {
    return {
      reason: `${refusal}: a seccomp filter, as containers have by default`,
      remedy: "run the container with a seccomp profile that allows io_uring_setup, " +
        "io_uring_enter and io_uring_register (docker run --security-opt seccomp=FILE)",
    };
  }
  if (errno === Errno.ENOSYS) {
    return { reason: `${refusal}: this kernel has no io_uring`, remedy: "use Linux 5.13 or later" };
  }
  if (errno === Errno.ENOMEM) {
    return {
      reason: `${refusal}: the memlock limit`,
      remedy: "raise the memlock limit with ulimit -l",
    };
  }
  return {
    reason: refusal,
    remedy: "ask whoever runs this machine which security module or limit forbids it",
  };
}

function diagnoseBackend(advice: string[]): FdmonInfo | null {
  try {
    using context = new AioContext();
    const { name, reason } = context.fdmon;
    return { name, reason };
  } catch (error) {
    keepAdvice(error, advice);
    return null;
  }
}

/** Turns what a failed part threw into text, which says what to do as well. */
function keepAdvice(error: unknown, advice: string[]): string {
  // A grant for the libraries alone lets them be loaded but no pointers be made.
  if (error instanceof Deno.errors.NotCapable) return error.message;
  if (!(error instanceof AioError)) throw error;
  // Permissions have a line of their own, which lists all that are missing.
  if (error.code !== "EACCES") advice.push(error.message);
  return error.message;
}

function readLimits(): DoctorReport["limits"] {
  const text = readProc("/proc/self/limits") ?? "";
  const limit = (name: string): Limit | null => {
    const match = new RegExp(`^${name}\\s+(\\S+)\\s+(\\S+)`, "m").exec(text);
    return match === null ? null : { soft: toNumber(match[1]), hard: toNumber(match[2]) };
  };
  return { openFiles: limit("Max open files"), lockedMemoryBytes: limit("Max locked memory") };
}

function toNumber(limit: string): number {
  return limit === "unlimited" ? Infinity : Number(limit);
}

function readProc(path: string): string | null {
  return ifPermitted({ name: "read", path }, () => Deno.readTextFileSync(path).trim());
}

/** null where Deno does not permit it (most of /proc takes --allow-all) or there is no such file. */
function ifPermitted<Value>(
  permission: Deno.PermissionDescriptor,
  read: () => Value,
): Value | null {
  // What is only nice to know is not worth a prompt.
  if (Deno.permissions.querySync(permission).state !== "granted") return null;
  try {
    return read();
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable || error instanceof Deno.errors.NotFound) {
      return null;
    }
    throw error;
  }
}
