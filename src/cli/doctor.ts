/**
 * The `doctor` command: says which backend a context gets here, what is missing and what to do.
 *
 * It only shows; finding out is the business of doctor_report.ts. The text is for people and may
 * change, the JSON is the report as it is, for programs.
 */
import { styleText } from "node:util";
import { type DoctorReport, type Limit, makeDoctorReport } from "./doctor_report.ts";
import { ExitCode } from "./exit.ts";

const NOT_KNOWN = "not known (Deno shows it with --allow-all)";
const LABEL_WIDTH = 16;

/** One line of a section: a label, a value, and whether that is as it should be. */
type Line = readonly [label: string, value: string, good?: boolean];

/** Options of the command. */
export interface DoctorOptions {
  readonly json: boolean;
}

/**
 * Prints the report.
 *
 * @returns the exit code: 0 when a context can be had with io_uring or epoll
 */
export function doctor(options: DoctorOptions): number {
  const report = makeDoctorReport();
  console.log(options.json ? JSON.stringify(report, null, 2) : describe(report));
  const name = report.backend?.name;
  return name === "io_uring" || name === "epoll" ? ExitCode.ok : ExitCode.failure;
}

function describe(report: DoctorReport): string {
  const { system, processors, shim, liburing, ioUring, limits, backend } = report;
  const sections = [
    describeSection("System", [
      ["kernel", system.kernel ?? NOT_KNOWN],
      ["processors", describeProcessors(system)],
      ["may run on", describeAllowed(processors)],
      ["deno", system.deno],
    ]),
    describeSection("Libraries", [
      ["shim", shim.error ?? `${shim.path} (from ${shim.origin})`, shim.error === null],
      ["shim sha256", shim.sha256 ?? "not known"],
      ["liburing", liburing.error ?? liburing.path, liburing.error === null],
      ["version", liburing.version ?? "not known"],
    ]),
    describeSection("io_uring", [
      ["setup", ioUring.error ?? "works", ioUring.error === null],
      ["sysctl", describeSysctl(ioUring.disabledSysctl)],
      ["seccomp filter", describeFlag(ioUring.seccompFilter)],
      ...Object.entries(ioUring.features).map(([name, answer]): Line => {
        return [name, answer, answer === "yes"];
      }),
    ]),
    describeSection("Limits", [
      ["open files", describeLimit(limits.openFiles)],
      ["locked memory", describeLimit(limits.lockedMemoryBytes, " bytes")],
    ]),
    describeSection("Backend", [
      ["would use", backend?.name ?? "none", backend?.name === "io_uring"],
      ["reason", backend?.reason ?? "no context can be made"],
    ]),
    describeAdvice(report.advice),
  ];
  return sections.join("\n\n");
}

function describeSection(title: string, lines: readonly Line[]): string {
  const body = lines.map(([label, value, good]) => {
    const shown = good === undefined ? value : paint(good ? "green" : "yellow", value);
    return `  ${label.padEnd(LABEL_WIDTH)}${shown}`;
  });
  return [paint("bold", title), ...body].join("\n");
}

function describeAdvice(advice: readonly string[]): string {
  const title = paint("bold", "What to do");
  if (advice.length === 0) return `${title}\n  nothing`;
  return [title, ...advice.map((line) => `  - ${line}`)].join("\n");
}

function describeProcessors({ processors, arch }: DoctorReport["system"]): string {
  return `${processors} (${arch})${processors === 1 ? ": by default nothing is polled for" : ""}`;
}

function describeAllowed({ allowed, cores, quota }: DoctorReport["processors"]): string {
  if (allowed === null) return NOT_KNOWN;
  const shared = cores === null ? "" : `, ${cores.length} cores`;
  const limited = quota === null ? "" : `, the time of ${quota} of them`;
  return `${allowed.join(", ")}${shared}${limited}`;
}

function describeSysctl(disabled: number | null): string {
  if (disabled === null) return NOT_KNOWN;
  const meaning = ["on", "for one group and root only", "off"][disabled] ?? "unknown";
  return `kernel.io_uring_disabled = ${disabled} (${meaning})`;
}

function describeFlag(flag: boolean | null): string {
  if (flag === null) return NOT_KNOWN;
  return flag ? "yes" : "no";
}

function describeLimit(limit: Limit | null, unit = ""): string {
  if (limit === null) return NOT_KNOWN;
  const [soft, hard] = [limit.soft, limit.hard].map((value) =>
    value === Infinity ? "unlimited" : `${value.toLocaleString("en")}${unit}`
  );
  return `${soft} (hard limit ${hard})`;
}

/** Colours are for people at a terminal. */
function paint(style: "bold" | "green" | "yellow", text: string): string {
  if (!Deno.stdout.isTerminal() || Deno.noColor) return text;
  // Looking at the stream itself, styleText() would need a permission.
  return styleText(style, text, { validateStream: false });
}
