/**
 * What a guest boots from: an archive of busybox, the modules of virtio, and a script that is its
 * whole system.
 *
 * The archive has the "newc" format of cpio(5), which the kernel unpacks into its first filesystem.
 */
import { findGuestKernel, type GuestKernel } from "../../src/cli/setup_guest.ts";

/** In the order in which they need each other. */
const MODULES = [
  "drivers/virtio/virtio_ring.ko",
  "drivers/virtio/virtio.ko",
  "drivers/virtio/virtio_pci_modern_dev.ko",
  "drivers/virtio/virtio_pci_legacy_dev.ko",
  "drivers/virtio/virtio_pci.ko",
  "drivers/block/virtio_blk.ko",
];
const FOLDER = 0o040755, EXECUTABLE = 0o100755;
const HEADER_DIGITS = 8;

/** The kernel, which `setup --for guest` has fetched. */
export function requireGuestKernel(): GuestKernel {
  const kernel = findGuestKernel();
  if (kernel !== null) return kernel;
  throw new Error("there is no kernel for guests: deno run -A src/cli/main.ts setup --for guest");
}

/**
 * Writes an archive.
 *
 * @param path where to
 * @param script what the guest does once it has its disks, in sh; then it powers off
 * @param programs further programs, by the names they have in the guest's /bin
 */
export function writeImage(
  path: string,
  script: string,
  programs: Readonly<Record<string, string>> = {},
): void {
  const { modules } = requireGuestKernel();
  const names = MODULES.map((module) => module.slice(module.lastIndexOf("/") + 1));
  const init = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
for module in ${names.join(" ")}; do insmod /modules/$module; done
say() { echo "guest: $*"; }
${script}
say end
poweroff -f
`;
  const text = new TextEncoder();
  using file = Deno.openSync(path, { write: true, create: true, truncate: true });
  const add = (name: string, mode: number, bytes: Uint8Array) =>
    file.writeSync(entry(name, mode, bytes));
  for (const folder of ["bin", "dev", "mnt", "modules", "proc", "sys"]) {
    add(folder, FOLDER, new Uint8Array());
  }
  add("init", EXECUTABLE, text.encode(init));
  for (const [name, from] of Object.entries({ busybox: "/bin/busybox", ...programs })) {
    add(`bin/${name}`, EXECUTABLE, Deno.readFileSync(from));
  }
  for (const [at, module] of MODULES.entries()) {
    add(`modules/${names[at]}`, EXECUTABLE, Deno.readFileSync(`${modules}/${module}`));
  }
  add("TRAILER!!!", 0, new Uint8Array());
}

let lastInode = 0;

/** A file of an archive: header and name, and the content, each padded to four bytes. */
function entry(name: string, mode: number, content: Uint8Array): Uint8Array {
  const path = new TextEncoder().encode(`${name}\0`);
  const numbers = [++lastInode, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, path.length, 0];
  const digits = numbers.map((value) => value.toString(16).padStart(HEADER_DIGITS, "0")).join("");
  const header = new TextEncoder().encode(`070701${digits}`);
  const contentAt = Math.ceil((header.length + path.length) / 4) * 4;
  const bytes = new Uint8Array(Math.ceil((contentAt + content.length) / 4) * 4);
  bytes.set(header);
  bytes.set(path, header.length);
  bytes.set(content, contentAt);
  return bytes;
}
