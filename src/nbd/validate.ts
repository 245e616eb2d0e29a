/**
 * What is wrong with a request, as the protocol wants it said.
 */
import type { CheckedExport } from "./exports.ts";
import { Command, CommandFlag, NbdErrno, PAYLOAD_MAX } from "./protocol.ts";
import type { ReplyForm } from "./reply.ts";
import type { NbdRequest } from "./request.ts";

/** What a connection has agreed on. */
export interface Rules {
  readonly chosen: CheckedExport;
  readonly form: ReplyForm;
  readonly hasContext: boolean;
}

/** The error that a request is answered with; 0 where it may be carried out. */
export function validate(request: NbdRequest, rules: Rules): number {
  const { command, flags, offset, length } = request;
  const { chosen: { device, readOnly }, form } = rules;
  if ((flags & ~allowedFlags(command, form, device.canZeroFast)) !== 0) return NbdErrno.EINVAL;
  switch (command) {
    case Command.read:
      if (length <= PAYLOAD_MAX) break;
      return (flags & CommandFlag.df) !== 0 ? NbdErrno.EOVERFLOW : NbdErrno.EINVAL;
    case Command.write:
      if (readOnly) return NbdErrno.EPERM;
      if (length > PAYLOAD_MAX) return NbdErrno.EINVAL;
      break;
    case Command.writeZeroes:
      if (readOnly) return NbdErrno.EPERM;
      break;
    case Command.trim:
      if (readOnly) return NbdErrno.EPERM;
      if (!device.canTrim) return NbdErrno.EINVAL;
      break;
    case Command.flush:
      return offset === 0 && length === 0 ? 0 : NbdErrno.EINVAL;
    case Command.blockStatus:
      if (!rules.hasContext || length === 0) return NbdErrno.EINVAL;
      break;
    case Command.cache:
      break;
    default:
      return NbdErrno.EINVAL;
  }
  if (offset > device.size || length > device.size - offset) {
    const writes = command === Command.write || command === Command.writeZeroes;
    return writes ? NbdErrno.ENOSPC : NbdErrno.EINVAL;
  }
  const { blockSize } = device;
  return offset % blockSize === 0 && length % blockSize === 0 ? 0 : NbdErrno.EINVAL;
}

/** Flags that mean something; force unit access may go with every command, and does not always. */
function allowedFlags(command: number, form: ReplyForm, fastZero: boolean): number {
  const extended = form === "extended";
  switch (command) {
    case Command.read:
      return CommandFlag.fua | (form === "simple" ? 0 : CommandFlag.df);
    case Command.write:
      return CommandFlag.fua | (extended ? CommandFlag.payloadLen : 0);
    case Command.writeZeroes:
      return CommandFlag.fua | CommandFlag.noHole | (fastZero ? CommandFlag.fastZero : 0);
    case Command.blockStatus:
      return CommandFlag.fua | CommandFlag.reqOne | (extended ? CommandFlag.payloadLen : 0);
    default:
      return CommandFlag.fua;
  }
}
