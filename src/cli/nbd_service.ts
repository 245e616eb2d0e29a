/**
 * What serves in one thread: a server, and devices of its own over the files that are served.
 *
 * All threads have the same files, and the page cache, or the disk itself, is what they share: a
 * flush by one of them covers what others have written. Invariant: the devices are closed when
 * `close` settles, also where flushing them has failed.
 */
import type { AioContext, AioSocket } from "../../mod.ts";
import { FileBlockDevice, type FileBlockDeviceOptions } from "../block/mod.ts";
import { type NbdExport, NbdServer, type NbdStats } from "../nbd/mod.ts";

/** An export whose file is known; threads get these as messages. */
export interface DiskOrder {
  readonly name: string;
  readonly description: string;
  readonly path: string;
  readonly isDefault: boolean;
  readonly device: FileBlockDeviceOptions;
}

/** What a thread is to serve. */
export interface ServiceOrder {
  readonly disks: readonly DiskOrder[];
  /** Say on stderr why connections have failed. */
  readonly verbose: boolean;
}

/** An export as programs are told of it. */
export interface DiskFacts {
  readonly name: string;
  readonly description: string;
  readonly size: number;
  readonly blockSize: number;
  readonly readOnly: boolean;
}

/** One thread's part of the work. */
export class NbdService {
  readonly #exports: readonly NbdExport[];
  readonly #server: NbdServer;
  #closing = false;

  private constructor(ctx: AioContext, exports: readonly NbdExport[], verbose: boolean) {
    this.#exports = exports;
    const onConnectionError = verbose ? sayFailure : undefined;
    this.#server = new NbdServer(ctx, exports, { onConnectionError });
  }

  /** Opens the files. */
  static async open(ctx: AioContext, order: ServiceOrder): Promise<NbdService> {
    const exports: NbdExport[] = [];
    try {
      for (const { name, description, path, isDefault, device } of order.disks) {
        const opened = await FileBlockDevice.open(ctx, path, device);
        exports.push({ name, description, device: opened, default: isDefault });
      }
      return new NbdService(ctx, exports, order.verbose);
    } catch (error) {
      for (const { device } of exports) await device.close();
      throw error;
    }
  }

  /** What is served. */
  get facts(): DiskFacts[] {
    return this.#exports.map(({ name, description = "", device }) => {
      const { size, blockSize, readOnly } = device;
      return { name, description, size, blockSize, readOnly };
    });
  }

  /** Serves a connection; resolves when that has ended and is closed. */
  serve(socket: AioSocket): Promise<void> {
    return this.#closing ? socket.close() : this.#server.serve(socket);
  }

  /** Counters. */
  stats(): NbdStats {
    return this.#server.stats();
  }

  /** Ends in good order: what is in flight is answered, and all is flushed. */
  async close(): Promise<NbdStats> {
    this.#closing = true;
    try {
      await this.#server.close();
    } finally {
      for (const { device } of this.#exports) await device.close();
    }
    return this.stats();
  }
}

function sayFailure(error: unknown): void {
  console.error(`a connection ended: ${error instanceof Error ? error.message : String(error)}`);
}
