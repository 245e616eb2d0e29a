/** The words of a context on the board, for tests that look at them or forge a state. */
import { Board, PlaceWord } from "../ffi/board.ts";
import { loadShim } from "../ffi/library.ts";
import type { AioContext } from "../mod.ts";

export { PlaceWord };

/** The whole board. */
export const boardWords = Board.of(loadShim()).words;

/** The eventfd of a context. */
export function notifierFd(ctx: AioContext): number {
  return boardWords[ctx.remote().place + PlaceWord.fd];
}
