/** Which links of the board anybody holds, and peers whose functions are not known. */
import { loadShim } from "../ffi/library.ts";
import { LINKS, Links, LinkSide } from "../ffi/link.ts";

// deno-lint-ignore no-explicit-any
export type Any = Record<string, (...values: any[]) => any>;

/** Links that anybody holds. */
export function linksInUse(): number {
  const links = new Links(loadShim());
  let count = 0;
  for (let index = 0; index < LINKS; index++) {
    const link = links.at(index), { number } = link;
    if ([LinkSide.client, LinkSide.server].some((side) => link.isHeldBy(side, number))) count++;
  }
  return count;
}
