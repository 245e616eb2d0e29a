/**
 * How a command ends: exit codes, and the two errors a user meets.
 *
 * Both errors carry one readable line and are shown without a stack trace, which is kept for
 * errors of ours. What a command does is the business of its own file.
 */

/** Exit codes of the command line interface. */
export const ExitCode = { ok: 0, failure: 1, usage: 2 } as const;

/** An option or argument that cannot be used as given. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** A correct command that could not be carried out here. */
export class CommandError extends Error {
  override readonly name = "CommandError";
}
