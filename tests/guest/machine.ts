/**
 * A virtual machine with disks over vhost-user: QEMU without hardware support, and what its guest says
 * on the serial line.
 *
 * More processors than there are can be plugged in, so the guest sets up as many queues as a disk has,
 * and uses those of its two. A PCI slot takes eight disks.
 */
import { requireGuestKernel, writeImage } from "./image.ts";

const PROCESSORS = 2, PROCESSORS_MAX = 32;
const FUNCTIONS_PER_SLOT = 8;
/** Slots of the machine that are not taken. */
const FIRST_SLOT = 2;
/** Of a machine with few disks: each more has its queues in the guest's memory. */
const MEMORY_MIB = 512;
/** Nothing that a guest with few disks does takes as long. */
const SECONDS_MAX = 150;

/** A disk of a machine. */
export interface MachineDisk {
  readonly socket: string;
  readonly numQueues: number;
}

/** What a machine is started with. */
export interface MachineOptions {
  readonly disks: readonly MachineDisk[];
  /** What the guest does, in sh; `say` writes a line. */
  readonly script: string;
  readonly programs?: Readonly<Record<string, string>>;
  /** For files of its own. */
  readonly folder: string;
  readonly memoryMib?: number;
  /** It is stopped after so much time. */
  readonly secondsMax?: number;
}

/** Runs a machine until it has powered off; what its guest has said. */
export async function runMachine(options: MachineOptions): Promise<string[]> {
  const { image } = requireGuestKernel();
  const { memoryMib = MEMORY_MIB, secondsMax = SECONDS_MAX } = options;
  const initrd = `${options.folder}/initrd`;
  writeImage(initrd, options.script, options.programs);
  const command = new Deno.Command("timeout", {
    args: [
      ...["-k", "1", `${secondsMax}`, "qemu-system-x86_64", "-accel", "tcg,thread=multi"],
      ...["-cpu", "max", "-machine", "q35,memory-backend=mem", "-m", `${memoryMib}M`],
      ...["-object", `memory-backend-memfd,id=mem,size=${memoryMib}M,share=on`],
      ...["-smp", `${PROCESSORS},maxcpus=${PROCESSORS_MAX}`, "-nodefaults", "-no-user-config"],
      ...["-display", "none", "-serial", "stdio", "-no-reboot"],
      ...["-kernel", image, "-initrd", initrd],
      ...["-append", "console=ttyS0 quiet panic=-1 mitigations=off"],
      ...options.disks.flatMap(diskArguments),
    ],
    stdin: "null",
  });
  const { code, stdout, stderr } = await command.output();
  const text = new TextDecoder();
  const lines = text.decode(stdout).split(/\r?\n/);
  const said = lines.filter((line) => line.startsWith("guest: "))
    .map((line) => line.slice("guest: ".length));
  if (code !== 0 || said.pop() !== "end") {
    const all = [...lines.slice(-30), text.decode(stderr)].join("\n");
    throw new Error(`the machine has ended with code ${code}:\n${all}`);
  }
  return said;
}

function diskArguments({ socket, numQueues }: MachineDisk, index: number): string[] {
  const slot = FIRST_SLOT + Math.floor(index / FUNCTIONS_PER_SLOT);
  const address = `addr=${slot}.${index % FUNCTIONS_PER_SLOT},multifunction=on`;
  return [
    // The back end may be restarted under the guest.
    ...["-chardev", `socket,id=c${index},path=${socket},reconnect=1`],
    ...["-device", `vhost-user-blk-pci,chardev=c${index},num-queues=${numQueues},${address}`],
  ];
}
