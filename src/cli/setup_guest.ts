/**
 * The kernel of the guests that disks are tried with: a package of the distribution, unpacked into
 * the cache folder and not installed.
 *
 * Debian's kernel for clouds boots in seconds and has virtio as modules. Invariant: the folder is
 * there as a whole, or not at all.
 */
import { locateShim } from "../../ffi/shim_cache.ts";
import { CommandError, ExitCode } from "./exit.ts";

const META_PACKAGE = "linux-image-cloud-amd64";

/** A kernel, and its modules by name. */
export interface GuestKernel {
  readonly image: string;
  readonly modules: string;
}

function kernelFolder(): string {
  return `${locateShim().folder}/guest-kernel`;
}

/** The kernel that was fetched; null where there is none. */
export function findGuestKernel(): GuestKernel | null {
  const folder = kernelFolder();
  try {
    const [{ name }] = [...Deno.readDirSync(`${folder}/boot`)]
      .filter(({ name }) => name.startsWith("vmlinuz-"));
    const version = name.slice("vmlinuz-".length);
    const modules = `${folder}/lib/modules/${version}/kernel`;
    return { image: `${folder}/boot/${name}`, modules };
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

/** Fetches the kernel, where it is not there yet. @returns the exit code */
export async function fetchGuestKernel(): Promise<number> {
  const known = findGuestKernel();
  if (known !== null) {
    console.log(`setup: guests have ${known.image}`);
    return ExitCode.ok;
  }
  const depends = await output("apt-cache", ["depends", "--important", META_PACKAGE]);
  const name = /Depends: (linux-image-\S+)/.exec(depends)?.[1];
  if (name === undefined) throw new CommandError(`Cannot find the package of ${META_PACKAGE}`);
  const folder = kernelFolder();
  Deno.mkdirSync(locateShim().folder, { recursive: true, mode: 0o700 });
  const temporary = Deno.makeTempDirSync({ dir: locateShim().folder, prefix: "kernel_" });
  try {
    console.log(`setup: running apt-get download ${name}`);
    await output("apt-get", ["download", "-q", name], temporary);
    const [file] = [...Deno.readDirSync(temporary)].filter(({ name }) => name.endsWith(".deb"));
    await output("dpkg", ["-x", file.name, "unpacked"], temporary);
    Deno.renameSync(`${temporary}/unpacked`, folder);
  } finally {
    Deno.removeSync(temporary, { recursive: true });
  }
  console.log(`setup: guests have ${findGuestKernel()?.image}`);
  return ExitCode.ok;
}

/** What a program prints. */
async function output(program: string, args: string[], cwd?: string): Promise<string> {
  const command = new Deno.Command(program, { args, cwd, stdin: "null", stderr: "inherit" });
  try {
    const { success, stdout } = await command.output();
    if (success) return new TextDecoder().decode(stdout);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new CommandError(`Cannot get a kernel for guests as there is no ${program}`);
  }
  throw new CommandError(`Cannot get a kernel for guests as ${program} ${args.join(" ")} failed`);
}
