/**
 * Takes system calls away from the running thread, as the seccomp filter of a container does.
 *
 * There is no way back, so only child processes use this. Threads made later inherit the filter.
 */

const PR_SET_NO_NEW_PRIVS = 38;
const PR_SET_SECCOMP = 22;
const SECCOMP_MODE_FILTER = 2n;
const SECCOMP_RET_ALLOW = 0x7fff_0000;
const SECCOMP_RET_ERRNO = 0x0005_0000;

// Offsets in struct seccomp_data.
const DATA_NUMBER = 0, DATA_ARCH = 4;
// Codes of BPF instructions: load a word, jump if equal, return.
const LOAD = 0x20, JUMP_EQUAL = 0x15, RETURN = 0x06;
const INSTRUCTION_BYTES = 8;
const FPROG_BYTES = 16, FPROG_FILTER = 8;

/** AUDIT_ARCH_... and numbers of system calls. */
const MACHINES = {
  x86_64: {
    audit: 0xc000_003e,
    io_uring_setup: 425,
    io_uring_enter: 426,
    io_uring_register: 427,
    epoll_create1: 291,
  },
  aarch64: {
    audit: 0xc000_00b7,
    io_uring_setup: 425,
    io_uring_enter: 426,
    io_uring_register: 427,
    epoll_create1: 20,
  },
} as const;

/** System calls that can be taken away. */
export type SystemCall = Exclude<keyof typeof MACHINES.x86_64, "audit">;

/** System calls and the errno that each is to fail with. */
export type Refusals = Readonly<Partial<Record<SystemCall, number>>>;

type Instruction = readonly [code: number, ifTrue: number, ifFalse: number, k: number];

/** From now on each of these system calls fails with the errno given for it. */
export function refuseSystemCalls(refusals: Refusals): void {
  const machine = MACHINES[Deno.build.arch];
  const allow: Instruction = [RETURN, 0, 0, SECCOMP_RET_ALLOW];
  const program: Instruction[] = [
    [LOAD, 0, 0, DATA_ARCH],
    // Calls by the numbers of another architecture are none of ours.
    [JUMP_EQUAL, 1, 0, machine.audit],
    allow,
    [LOAD, 0, 0, DATA_NUMBER],
    ...Object.entries(refusals).flatMap(([name, errno]): Instruction[] => [
      [JUMP_EQUAL, 0, 1, machine[name as SystemCall]],
      [RETURN, 0, 0, SECCOMP_RET_ERRNO | errno],
    ]),
    allow,
  ];
  install(program);
}

function install(program: readonly Instruction[]): void {
  const filter = new DataView(new ArrayBuffer(program.length * INSTRUCTION_BYTES));
  program.forEach(([code, ifTrue, ifFalse, k], index) => {
    const at = index * INSTRUCTION_BYTES;
    filter.setUint16(at, code, true);
    filter.setUint8(at + 2, ifTrue);
    filter.setUint8(at + 3, ifFalse);
    filter.setUint32(at + 4, k, true);
  });
  // struct sock_fprog: the number of instructions and where they are.
  const fprog = new DataView(new ArrayBuffer(FPROG_BYTES));
  fprog.setUint16(0, program.length, true);
  const address = Deno.UnsafePointer.value(Deno.UnsafePointer.of(filter));
  fprog.setBigUint64(FPROG_FILTER, address, true);

  const libc = Deno.dlopen("libc.so.6", {
    // int prctl(int op, unsigned long, unsigned long, unsigned long, unsigned long)
    prctl: { parameters: ["i32", "u64", "pointer", "u64", "u64"], result: "i32" },
  });
  const { prctl } = libc.symbols;
  // Without this only root may install a filter.
  if (prctl(PR_SET_NO_NEW_PRIVS, 1n, null, 0n, 0n) !== 0) throw new Error("no_new_privs failed");
  const pointer = Deno.UnsafePointer.of(fprog);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, pointer, 0n, 0n) !== 0) {
    throw new Error("installing the seccomp filter failed");
  }
}
