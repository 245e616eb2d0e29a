/** The poll parameters as options of the commands that serve, under the names they share. */
import type { PollParams } from "../../mod.ts";
import { UsageError } from "./exit.ts";
import { wholeNumber } from "./option_values.ts";

const POLL_MAX_NS = 1e9;
const FACTOR_MAX = 1_000_000, WEIGHT_MAX = 16, IDLE_NS_MAX = Number.MAX_SAFE_INTEGER;

/** The options, as they were typed. */
export interface PollArguments {
  readonly pollMaxNs?: string;
  readonly pollGrow?: string;
  readonly pollShrink?: string;
  readonly pollIdleNs?: string;
  readonly pollWeight?: string;
}

/** Those that were given. */
export function parsePollParams(args: PollArguments): Partial<PollParams> {
  const params: Partial<PollParams> = {};
  const read = (name: keyof PollParams, option: string, text: string | undefined, max: number) => {
    if (text !== undefined) params[name] = wholeNumber(option, text, 0, max);
  };
  read("maxNs", "--poll-max-ns", args.pollMaxNs, POLL_MAX_NS);
  read("grow", "--poll-grow", args.pollGrow, FACTOR_MAX);
  read("shrink", "--poll-shrink", args.pollShrink, FACTOR_MAX);
  read("idleNs", "--poll-idle-ns", args.pollIdleNs, IDLE_NS_MAX);
  read("weight", "--poll-weight", args.pollWeight, WEIGHT_MAX);
  if (params.grow === 1) {
    throw new UsageError("Cannot use --poll-grow 1 as a factor of 1 never grows");
  }
  return params;
}
