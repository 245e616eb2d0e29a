/** What the IOThreads of `bench` can do. */
import type { IOThreadScope } from "../../mod.ts";
import { blocksToRead, RandomOffsets, READ_SIZE, RequestWindow } from "./bench_window.ts";

/** The thread of a measurement; `path` is the file that `reads` reads. */
export default async function benchThread({ ctx }: IOThreadScope, path: string) {
  const file = await ctx.openFile(path);
  const offsets = new RandomOffsets(blocksToRead(path));
  const buffer = ctx.buffers.allocate(READ_SIZE);
  let received = 0;
  return {
    echo: (value: number) => value,
    put: () => {
      received++;
    },
    takeCount: () => {
      const count = received;
      received = 0;
      return count;
    },
    /** Reads from the page cache for some seconds; the number of reads in a second. */
    reads: async (seconds: number) => {
      const window = new RequestWindow(seconds);
      while (!window.over) {
        const result = await file.read(buffer, offsets.next());
        if (result !== READ_SIZE) throw new Error(`error: a read of ${READ_SIZE} gave ${result}`);
        window.count();
      }
      return window.figures().iops;
    },
  };
}
