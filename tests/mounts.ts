/** Runs programs with mounts that only they see, or as another user; a skip where that cannot be. */
import { after, newFolder, run } from "./child.ts";

// The whole path, as a test may leave its program no PATH.
const UNSHARE = "/usr/bin/unshare";

/** The words that run a program after a shell command whose mounts nobody else sees. */
export function afterMounts(command: string, words: readonly string[]): string[] {
  // Who is not root may still mount as root of a user namespace.
  return [UNSHARE, Deno.uid() === 0 ? "-m" : "-rm", ...after(command, words)];
}

/** The words that run a program as user 1000, who owns what this user owns. */
export function asOtherUser(words: readonly string[]): string[] {
  return [UNSHARE, "-U", "--map-user=1000", ...words];
}

/** Why neither can be had here; undefined where both can. */
async function whyRefused(): Promise<string | undefined> {
  const words = afterMounts(`mount -t tmpfs -o noexec tmpfs ${newFolder()}`, asOtherUser(["true"]));
  const { code, stderr } = await run(words);
  return code === 0 ? undefined : stderr.trim();
}

const refused = await whyRefused();

/** Registers a test that needs mounts. */
export function testWithMounts(name: string, fn: () => Promise<void>): void {
  Deno.test({
    name: refused === undefined ? name : `${name} (skipped: ${refused})`,
    ignore: refused !== undefined,
    fn,
  });
}
