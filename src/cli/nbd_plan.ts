/**
 * What `nbd` is to serve, from what the user has named: files, `--export` and `--memory`.
 *
 * Nothing is opened here. `--export` is a list of `key=value`, in which a comma is written twice to
 * be part of a value, as in qemu's options.
 */
import { UsageError } from "./exit.ts";
import { bytes } from "./option_values.ts";

/** An export that is to be. */
export interface DiskPlan {
  readonly name: string;
  readonly description: string;
  /** A path, or the bytes of a disk in memory. */
  readonly source: string | number;
  readonly readOnly: boolean;
  readonly isDefault: boolean;
}

const MEMORY_NAME = "memory";
/** The longest string of the protocol. */
const STRING_MAX = 4096;

/** All exports in order; the first is the default one unless another is said to be. */
export function planDisks(
  files: readonly string[],
  exports: readonly string[],
  memories: readonly string[],
  readOnly: boolean,
): DiskPlan[] {
  const plans = [
    ...files.map((path) => plan(path, { readOnly })),
    ...exports.map((text) => parseExport(text, readOnly)),
    ...memories.map((text) => plan(bytes("--memory", text), { readOnly })),
  ];
  if (plans.length === 0) {
    throw new UsageError("Cannot serve as there is neither a file nor --export nor --memory");
  }
  const names = new Set<string>();
  for (const { name } of plans) {
    if (names.has(name)) {
      throw new UsageError(
        `Cannot serve two exports of the name ${JSON.stringify(name)}: ` +
          "--export name=NAME,file=FILE gives one another name",
      );
    }
    names.add(name);
  }
  const defaults = plans.filter(({ isDefault }) => isDefault).length;
  if (defaults > 1) throw new UsageError(`Cannot serve as ${defaults} exports are the default`);
  if (defaults === 0) plans[0] = { ...plans[0], isDefault: true };
  return plans;
}

function plan(source: string | number, known: Partial<DiskPlan>): DiskPlan {
  if (source === "") throw new UsageError('Cannot serve "" as it is not the name of a file');
  const name = typeof source === "number" ? MEMORY_NAME : baseName(source);
  return { name, description: "", readOnly: false, isDefault: false, source, ...known };
}

function parseExport(text: string, readOnly: boolean): DiskPlan {
  const values = parseList(text);
  const file = values.get("file"), memory = values.get("memory");
  if ((file === undefined) === (memory === undefined)) {
    throw new UsageError(`Cannot use --export ${text} as it needs one of file= and memory=`);
  }
  const source = memory === undefined ? file! : bytes("--export memory", memory);
  const name = values.get("name"), description = values.get("description");
  for (const [what, value = ""] of [["name", name], ["description", description]]) {
    const { length } = new TextEncoder().encode(value);
    if (length <= STRING_MAX) continue;
    throw new UsageError(
      `Cannot use --export as a ${what} of ${length} bytes is longer than ${STRING_MAX}`,
    );
  }
  return plan(source, {
    ...(name === undefined ? {} : { name }),
    ...(description === undefined ? {} : { description }),
    readOnly: readOnly || isOn("read-only", values),
    isDefault: isOn("default", values),
  });
}

const KEYS: readonly string[] = ["name", "file", "memory", "description", "read-only", "default"];
/** Those that need no value. */
const SWITCHES: readonly string[] = ["read-only", "default"];
const OTHER_NAMES: Readonly<Record<string, string>> = {
  readonly: "read-only",
  desc: "description",
};

/** Values by key; each once. */
function parseList(text: string): ReadonlyMap<string, string> {
  const values = new Map<string, string>();
  // A comma that is not one of a pair ends a part.
  const parts = text.match(/(?:[^,]|,,)+/g) ?? [];
  for (const part of parts.map((part) => part.replaceAll(",,", ","))) {
    const equals = part.indexOf("=");
    const given = equals === -1 ? part : part.slice(0, equals);
    const key = OTHER_NAMES[given] ?? given;
    if (!KEYS.includes(key)) {
      throw new UsageError(
        `Cannot use --export ${text} as it has ${given}, which is none of ${KEYS.join(", ")}`,
      );
    }
    if (equals === -1 && !SWITCHES.includes(key)) {
      throw new UsageError(`Cannot use --export ${text} as ${given} has no value`);
    }
    if (values.has(key)) throw new UsageError(`Cannot use --export ${text} as it has two ${key}`);
    values.set(key, equals === -1 ? "on" : part.slice(equals + 1));
  }
  return values;
}

function isOn(key: string, values: ReadonlyMap<string, string>): boolean {
  const value = values.get(key) ?? "off";
  if (value === "on" || value === "off") return value === "on";
  throw new UsageError(`Cannot use ${key}=${value} as it is not on or off`);
}

function baseName(path: string): string {
  return path.replace(/\/+$/, "").replace(/^.*\//, "");
}
