/**
 * How a ring is set up: what is asked for, in which order, and what a refusal means.
 *
 * Setup prefers SINGLE_ISSUER + DEFER_TASKRUN with TASKRUN_FLAG: completions cost no interrupt of
 * the running thread, and a flag in the SQ ring says when there is something to fetch, which the
 * spin watches. Older kernels get COOP_TASKRUN, then nothing special. What bench/ring_flags.ts has
 * measured under Linux 6.18 on two shared cores: from an eventfd's write to the answer of a thread
 * that spins, where a spin finds the completion (in the CQ tail within a millisecond of the flag),
 * and polls armed, completed and read out in a second.
 *
 * | setup flags                  | spinning, ns | CQ tail          | SQ flags | polls, 1/s |
 * | ---------------------------- | ------------ | ---------------- | -------- | ---------- |
 * | none                         | 13,100       | 100 %            | never    | 617,000    |
 * | SINGLE_ISSUER                | 13,200       | 100 %            | never    | 635,000    |
 * | COOP_TASKRUN                 | 3,938,000    | at the next tick | never    | 631,000    |
 * | COOP_TASKRUN, TASKRUN_FLAG   | 2,300        | 28 %             | 100 %    | 703,000    |
 * | DEFER_TASKRUN                | for ever     | never            | never    | 822,000    |
 * | DEFER_TASKRUN, TASKRUN_FLAG  | 1,900        | never            | 100 %    | 820,000    |
 *
 * A thread that sleeps wakes up as fast with all of them.
 */
import { Errno } from "./errno.ts";
import { SqeOp } from "./sqe.ts";

/** Opcodes without which a ring is of no use. */
export const NEEDED_OPS: Readonly<Record<string, number>> = {
  pollAdd: SqeOp.pollAdd,
  pollRemove: SqeOp.pollRemove,
  asyncCancel: SqeOp.asyncCancel,
};

/** Flags of io_uring_setup(2). */
export const SetupFlag = {
  cqSize: 1 << 3,
  clamp: 1 << 4,
  coopTaskrun: 1 << 8,
  taskrunFlag: 1 << 9,
  singleIssuer: 1 << 12,
  deferTaskrun: 1 << 13,
} as const;

/** Flags to be tried, in this order. */
export const SETUP_CHOICES: readonly number[] = [
  SetupFlag.singleIssuer | SetupFlag.deferTaskrun | SetupFlag.taskrunFlag,
  SetupFlag.coopTaskrun | SetupFlag.taskrunFlag,
  0,
];

/** Who may be behind a refusal; other errors have their usual advice. */
export const REFUSAL_ADVICE: Readonly<Record<number, string>> = {
  [Errno.EPERM]: "a seccomp filter, as containers have by default, or the sysctl " +
    "kernel.io_uring_disabled forbids it",
  [Errno.ENOSYS]: "this kernel has no io_uring, or a seccomp filter hides it",
};
