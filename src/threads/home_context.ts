/**
 * The context through which an isolate calls its IOThreads where the user has none of his own: it is
 * attached to Deno's loop, and there while anybody needs it.
 */
import { AioContext } from "../aio_context.ts";

let home: AioContext | null = null;
let users = 0;

/** Has it be there until as many calls of `releaseHomeContext`. */
export function acquireHomeContext(): AioContext {
  if (home === null) {
    home = new AioContext();
    home.attach();
  }
  users++;
  return home;
}

/** Takes one call of `acquireHomeContext` back. */
export function releaseHomeContext(): void {
  if (--users !== 0) return;
  home?.[Symbol.dispose]();
  home = null;
}
