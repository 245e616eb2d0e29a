/**
 * The exports of a server: devices under names.
 */
import type { BlockDevice } from "../block/block_device.ts";
import { STRING_MAX, TransmissionFlag } from "./protocol.ts";
import type { ReplyForm } from "./reply.ts";

/** What a server offers. */
export interface NbdExport {
  /** What clients ask for, up to 4096 bytes; may be empty. */
  readonly name: string;
  /** For people. */
  readonly description?: string;
  /** What is served; it stays the caller's, who closes it after the server. */
  readonly device: BlockDevice;
  /** Nothing can be changed by way of this export. */
  readonly readOnly?: boolean;
  /** Clients that ask for no name get this one. Where there is only one export that is the default. */
  readonly default?: boolean;
}

/** An export as it was given, checked. */
export interface CheckedExport {
  readonly name: string;
  readonly nameBytes: Uint8Array;
  readonly descriptionBytes: Uint8Array;
  readonly device: BlockDevice;
  readonly readOnly: boolean;
}

/** All exports of a server. */
export class NbdExports {
  readonly all: readonly CheckedExport[];
  readonly #default: CheckedExport | null;
  readonly #byName: ReadonlyMap<string, CheckedExport>;

  /** @throws {TypeError} or {RangeError} for what cannot be an export */
  constructor(given: readonly NbdExport[]) {
    if (!Array.isArray(given)) {
      throw new TypeError(`Cannot serve as the exports are no array: ${typeof given}`);
    }
    this.all = given.map(readExport);
    this.#byName = new Map(this.all.map((one) => [one.name, one]));
    if (this.#byName.size !== this.all.length) {
      throw new TypeError("Cannot serve as two exports have the same name");
    }
    const defaults = given.flatMap((one, index) => one.default === true ? [this.all[index]] : []);
    if (defaults.length > 1) {
      throw new TypeError(`Cannot serve as ${defaults.length} exports are the default`);
    }
    this.#default = defaults[0] ?? (this.all.length === 1 ? this.all[0] : null);
  }

  /** The export of a name, the default one for none; null where there is none. */
  find(name: string): CheckedExport | null {
    return this.#byName.get(name) ?? (name === "" ? this.#default : null);
  }

  /** Each device once. */
  get devices(): readonly BlockDevice[] {
    return [...new Set(this.all.map(({ device }) => device))];
  }
}

function readExport(given: NbdExport): CheckedExport {
  if (typeof given !== "object" || given === null) {
    throw new TypeError(`Cannot serve as an export is no object: ${String(given)}`);
  }
  const { name, description = "", device, readOnly = false } = given;
  for (const [what, text] of [["name", name], ["description", description]] as const) {
    if (typeof text !== "string") {
      throw new TypeError(`Cannot serve an export as its ${what} is no string: ${typeof text}`);
    }
  }
  const nameBytes = encode("name", name);
  if (typeof device !== "object" || device === null) {
    throw new TypeError(`Cannot serve ${JSON.stringify(name)} as its device is no object`);
  }
  if (!Number.isSafeInteger(device.size) || device.size < 0) {
    throw new RangeError(
      `Cannot serve ${JSON.stringify(name)} as its size is no whole number: ${device.size}`,
    );
  }
  if (typeof readOnly !== "boolean") {
    throw new TypeError(`Cannot serve an export as readOnly is no boolean: ${typeof readOnly}`);
  }
  return {
    name,
    nameBytes,
    descriptionBytes: encode("description", description),
    device,
    readOnly: readOnly || device.readOnly,
  };
}

function encode(what: string, text: string): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  if (bytes.length > STRING_MAX) {
    throw new RangeError(
      `Cannot serve an export as its ${what} has more than ${STRING_MAX} bytes: ${bytes.length}`,
    );
  }
  if (text.includes("\0")) {
    throw new TypeError(`Cannot serve an export as its ${what} has a NUL: ${JSON.stringify(text)}`);
  }
  return bytes;
}

/** What clients are told of an export. */
export function transmissionFlags({ device, readOnly }: CheckedExport, form: ReplyForm): number {
  const flag = TransmissionFlag;
  // All connections share a device and what it caches, so a flush is seen by all.
  let flags = flag.hasFlags | flag.sendFlush | flag.sendFua | flag.canMultiConn | flag.sendCache;
  if (readOnly) flags |= flag.readOnly;
  else {
    flags |= flag.sendWriteZeroes;
    if (device.canTrim) flags |= flag.sendTrim;
    if (device.canZeroFast) flags |= flag.sendFastZero;
  }
  if (device.rotational) flags |= flag.rotational;
  if (form !== "simple") flags |= flag.sendDf;
  if (form === "extended") flags |= flag.blockStatusPayload;
  return flags;
}
