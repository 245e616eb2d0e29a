/**
 * The data of LIST_META_CONTEXT and SET_META_CONTEXT: an export, and queries for contexts.
 */
import { BASE_ALLOCATION, STRING_MAX } from "./protocol.ts";

/** All contexts whose names begin so. */
const BASE_NAMESPACE = "base:";

/** What a client asks for. */
export class MetaQuery {
  /** The export that it is about. */
  readonly exportName: string;
  readonly #queries: readonly string[];

  private constructor(exportName: string, queries: readonly string[]) {
    this.exportName = exportName;
    this.#queries = queries;
  }

  /** Reads it; null where its lengths do not fit. */
  static read(data: Uint8Array): MetaQuery | null {
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const text = new TextDecoder();
    let at = 0;
    const readString = (): string | null => {
      if (at + 4 > data.length) return null;
      const length = view.getUint32(at), start = at + 4;
      if (length > STRING_MAX || start + length > data.length) return null;
      at = start + length;
      return text.decode(data.subarray(start, at));
    };
    const exportName = readString();
    if (exportName === null || at + 4 > data.length) return null;
    const count = view.getUint32(at);
    at += 4;
    // Each has a length at least, so a count that lies ends here.
    const queries: string[] = [];
    for (let index = 0; index < count; index++) {
      const query = readString();
      if (query === null) return null;
      queries.push(query);
    }
    return at === data.length ? new MetaQuery(exportName, queries) : null;
  }

  /** To be set: by its name alone. */
  get selectsBaseAllocation(): boolean {
    return this.#queries.includes(BASE_ALLOCATION);
  }

  /** To be listed: by its name, by its namespace, or as one of all there are. */
  get listsBaseAllocation(): boolean {
    return this.#queries.length === 0 || this.selectsBaseAllocation ||
      this.#queries.includes(BASE_NAMESPACE);
  }
}
