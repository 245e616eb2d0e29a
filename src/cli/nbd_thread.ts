/**
 * The thread of `nbd --threads`: what runs in each of its IOThreads.
 *
 * The fds of connections come as numbers, and are this thread's from then on.
 */
import type { IOThreadScope } from "../../mod.ts";
import type { NbdStats } from "../nbd/mod.ts";
import { type DiskFacts, NbdService, type ServiceOrder } from "./nbd_service.ts";

/** What such a thread does. */
export default function nbdThread({ ctx, host }: IOThreadScope) {
  let service: NbdService | null = null;
  return {
    async open(order: ServiceOrder): Promise<DiskFacts[]> {
      service = await host(NbdService.open(ctx, order));
      return service.facts;
    },
    serve: (fd: number): Promise<void> => service!.serve(ctx.adoptSocket(fd)),
    stats: (): NbdStats => service!.stats(),
    close: (): Promise<NbdStats | null> => host(Promise.resolve(service?.close() ?? null)),
  };
}
