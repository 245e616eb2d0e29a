/** Files for the tests of requests: in a folder that goes away with the process. */
import type { AioContext, AioFile, OpenFileOptions } from "../mod.ts";
import { newFolder } from "./child.ts";

const folder = newFolder();
let files = 0;

/** A path that nobody has used. */
export function newPath(): string {
  return `${folder}/file${++files}`;
}

/** The filesystem of the files can say what the page cache has; that of memory cannot. */
export function tellsCache(): boolean {
  const { stdout } = new Deno.Command("stat", { args: ["-f", "-c", "%T", folder] }).outputSync();
  return new TextDecoder().decode(stdout).trim() !== "tmpfs";
}

/** Opens a new file for reading and writing. */
export function openNew(ctx: AioContext, options: OpenFileOptions = {}): Promise<AioFile> {
  return ctx.openFile(newPath(), { read: true, write: true, create: true, ...options });
}

/** Bytes that differ from their neighbours, and from those of another seed. */
export function pattern(byteLength: number, seed = 1): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(byteLength);
  for (let index = 0; index < byteLength; index++) bytes[index] = index * 31 + seed + (index >>> 8);
  return bytes;
}

/** What a promise rejects with; fails where it does not. */
export async function rejection(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error("the promise has not rejected");
}
