/**
 * virtio-blk: what the requests of a guest mean, over any BlockDevice.
 *
 * A request is a header that the device reads, data in one direction or the other, and a byte of
 * status that it writes last. Data goes between the guest's pages and the block device without a
 * copy; what a device can read without waiting is read before the next request is taken. What the guest asks for is checked before the device sees it: it never gets a range beyond
 * its end or one that is not of whole blocks.
 *
 * With write-back the guest sends FLUSH; a guest that has not agreed to that, or has switched
 * write-back off, gets writes that have survived before they are answered.
 */
import { AioError } from "../../mod.ts";
import type { BlockDevice, BlockWriteOptions, BlockZeroOptions } from "../block/block_device.ts";
import { type DeviceQueue, VirtioRequest } from "./device_queue.ts";
import { VirtioError } from "./guest_memory.ts";

/** Feature bits of virtio-blk and of virtio itself that are offered. */
export const BlkFeature = {
  sizeMax: 1n << 1n,
  segMax: 1n << 2n,
  readOnly: 1n << 5n,
  blockSize: 1n << 6n,
  flush: 1n << 9n,
  topology: 1n << 10n,
  configWriteCache: 1n << 11n,
  multiQueue: 1n << 12n,
  discard: 1n << 13n,
  writeZeroes: 1n << 14n,
} as const;

/** Types of requests. */
export const BlkRequestType = {
  in: 0,
  out: 1,
  flush: 4,
  getId: 8,
  discard: 11,
  writeZeroes: 13,
} as const;

/** What the last byte of a request says. */
export const BlkStatus = { ok: 0, ioError: 1, unsupported: 2 } as const;

/** Bytes of the configuration space. */
export const CONFIG_BYTES = 60;
/** The one writable byte of it. */
const CONFIG_WRITE_CACHE = 32;

const SECTOR = 512;
const HEADER_BYTES = 16, ID_BYTES = 20, SEGMENT_BYTES = 16;
// 32-bit words of the header.
const TYPE_WORD = 0, SECTOR_WORD = 2;
const HIGH = 0x1_0000_0000;
/** Data segments of a request: a queue of 128 entries less header and status. */
const SEGMENTS_MAX = 126;
const SEGMENT_BYTES_MAX = 1 << 22;
/** Sectors of a range to be discarded or zeroed: 2 GiB. */
const RANGE_SECTORS_MAX = 1 << 22;
/** Ranges in one request. */
const RANGES_MAX = 32;
const RANGE_UNMAP = 1;

const EOPNOTSUPP = 95;
const DURABLE: BlockWriteOptions = { fua: true };
const CACHED: BlockWriteOptions = {};

/** What the front end can see of a device and choose about it. */
export class BlkDevice {
  readonly device: BlockDevice;
  readonly readOnly: boolean;
  readonly queues: number;
  /** The guest has agreed to send FLUSH. */
  flushes = false;
  /** Write-back: chosen by the guest, as long as nobody resets the device. */
  writeBack: boolean;
  /** Sectors of 512 bytes that the guest sees. */
  readonly sectors: number;
  readonly #writeCache: boolean;
  readonly #id = new Uint8Array(ID_BYTES);

  /**
   * @param serial what GET_ID says, at most 20 bytes
   * @param writeCache whether a guest that flushes begins with write-back
   */
  constructor(
    device: BlockDevice,
    { readOnly, queues, serial, writeCache }: {
      readOnly: boolean;
      queues: number;
      serial: Uint8Array;
      writeCache: boolean;
    },
  ) {
    this.device = device;
    this.readOnly = readOnly || device.readOnly;
    this.queues = queues;
    this.#writeCache = this.writeBack = writeCache;
    this.sectors = Math.floor(device.size / SECTOR);
    this.#id.set(serial.subarray(0, ID_BYTES));
  }

  /** Feature bits offered. */
  get features(): bigint {
    const { sizeMax, segMax, blockSize, flush, topology, configWriteCache } = BlkFeature;
    let features = sizeMax | segMax | blockSize | flush | topology | configWriteCache;
    if (this.queues > 1) features |= BlkFeature.multiQueue;
    if (this.readOnly) features |= BlkFeature.readOnly;
    else {
      features |= BlkFeature.writeZeroes;
      if (this.device.canTrim) features |= BlkFeature.discard;
    }
    return features;
  }

  /** The guest has agreed to these features. */
  accept(features: bigint): void {
    this.flushes = (features & BlkFeature.flush) !== 0n;
  }

  /** As it was before any guest. */
  reset(): void {
    this.flushes = false;
    this.writeBack = this.#writeCache;
  }

  /** How writes have to be made. */
  get writeOptions(): BlockWriteOptions {
    return this.flushes && this.writeBack ? CACHED : DURABLE;
  }

  /** The configuration space: struct virtio_blk_config. */
  readConfig(): Uint8Array<ArrayBuffer> {
    const { device } = this;
    const view = new DataView(new ArrayBuffer(CONFIG_BYTES));
    const blockSize = Math.max(SECTOR, device.blockSize);
    const preferred = Math.max(blockSize, device.preferredBlockSize);
    view.setUint32(0, this.sectors % HIGH, true);
    view.setUint32(4, this.sectors / HIGH, true);
    view.setUint32(8, SEGMENT_BYTES_MAX, true);
    view.setUint32(12, SEGMENTS_MAX, true);
    view.setUint32(20, blockSize, true);
    view.setUint8(24, Math.floor(Math.log2(preferred / blockSize)));
    view.setUint16(26, Math.min(0xffff, preferred / blockSize), true);
    view.setUint8(CONFIG_WRITE_CACHE, this.writeBack ? 1 : 0);
    view.setUint16(34, this.queues, true);
    view.setUint32(36, RANGE_SECTORS_MAX, true);
    view.setUint32(40, RANGES_MAX, true);
    view.setUint32(44, preferred / SECTOR, true);
    view.setUint32(48, RANGE_SECTORS_MAX, true);
    view.setUint32(52, RANGES_MAX, true);
    view.setUint8(56, device.canTrim ? 1 : 0);
    return new Uint8Array(view.buffer);
  }

  /**
   * Writes to the configuration space.
   *
   * @throws {VirtioError} where it cannot be written
   */
  writeConfig(offset: number, bytes: Uint8Array): void {
    if (offset !== CONFIG_WRITE_CACHE || bytes.length !== 1) {
      throw new VirtioError(`Cannot write the configuration at ${offset}, ${bytes.length} bytes`);
    }
    this.writeBack = (bytes[0] & 1) !== 0;
  }

  /** What GET_ID answers. */
  get id(): Uint8Array {
    return this.#id;
  }
}

/** A request to a block device. */
export class BlkRequest extends VirtioRequest {
  readonly #blk: BlkDevice;
  /** Views of the data, kept as guests use the same pages for the same descriptors. */
  readonly #views: Uint8Array[] = [];
  /** Bytes of data that the device writes. */
  #length = 0;
  readonly #done = (): void => this.#finish(BlkStatus.ok);
  readonly #failed = (error: unknown): void => this.#fail(error);

  constructor(blk: BlkDevice, queue: DeviceQueue, head: number) {
    super(queue, head);
    this.#blk = blk;
  }

  start(): void {
    const { readable, writable } = this.chain;
    if (readable.byteLength < HEADER_BYTES || writable.byteLength < 1) {
      throw new VirtioError(
        "Cannot answer a request as it lacks its header or room for its status",
      );
    }
    this.#length = 0;
    try {
      this.#carryOut();
    } catch (error) {
      this.#fail(error);
    }
  }

  #carryOut(): void {
    const { readable, writable } = this.chain;
    const { device } = this.#blk;
    const dataIn = writable.byteLength - 1, dataOut = readable.byteLength - HEADER_BYTES;
    switch (readable.word(TYPE_WORD)) {
      case BlkRequestType.in: {
        const offset = this.#offsetOf(this.#readSector(), dataIn);
        if (offset === -1) return this.#finish(BlkStatus.ioError);
        this.#length = dataIn;
        if (this.#tryRead(dataIn, offset)) return this.#finish(BlkStatus.ok);
        return this.#await(device.read(writable.view(0, dataIn, this.#views), offset));
      }
      case BlkRequestType.out: {
        const offset = this.#offsetOf(this.#readSector(), dataOut);
        if (offset === -1 || this.#blk.readOnly) return this.#finish(BlkStatus.ioError);
        const views = readable.view(HEADER_BYTES, dataOut, this.#views);
        return this.#await(device.write(views, offset, this.#blk.writeOptions));
      }
      case BlkRequestType.flush:
        return this.#await(device.flush());
      case BlkRequestType.getId: {
        // The last byte is for the status, however little room there is.
        const id = this.#blk.id.subarray(0, Math.min(ID_BYTES, dataIn));
        writable.copyFrom(id);
        this.#length = id.length;
        return this.#finish(BlkStatus.ok);
      }
      case BlkRequestType.discard:
        if (!device.canTrim) return this.#finish(BlkStatus.unsupported);
        return this.#changeRanges(dataOut, false);
      case BlkRequestType.writeZeroes:
        return this.#changeRanges(dataOut, true);
      default:
        return this.#finish(BlkStatus.unsupported);
    }
  }

  /** Reads without waiting, where that is possible and the guest's memory is in one run. */
  #tryRead(length: number, offset: number): boolean {
    const { device } = this.#blk, { chunks, offsets, lengths } = this.chain.writable;
    if (device.tryRead === undefined || lengths[0] < length) return false;
    return device.tryRead(chunks[0].bytes, offsets[0], length, offset);
  }

  #readSector(): number {
    const { readable } = this.chain;
    return readable.word(SECTOR_WORD + 1) * HIGH + readable.word(SECTOR_WORD);
  }

  /** Where a range begins, in bytes; -1 where the device has no such range. */
  #offsetOf(sector: number, length: number): number {
    const { sectors, device } = this.#blk;
    const unit = Math.max(SECTOR, device.blockSize);
    if (length === 0 || length % unit !== 0) return -1;
    if (sector > sectors || length / SECTOR > sectors - sector) return -1;
    const offset = sector * SECTOR;
    return offset % unit === 0 ? offset : -1;
  }

  /** DISCARD and WRITE_ZEROES: every range is checked before the first is touched. */
  #changeRanges(length: number, zeroes: boolean): void {
    const { device, readOnly, writeOptions } = this.#blk;
    if (readOnly) return this.#finish(BlkStatus.ioError);
    const count = length / SEGMENT_BYTES;
    if (count < 1 || !Number.isInteger(count) || count > RANGES_MAX) {
      return this.#finish(BlkStatus.ioError);
    }
    const ranges = new DataView(new ArrayBuffer(length));
    this.chain.readable.copyTo(new Uint8Array(ranges.buffer), HEADER_BYTES, length);
    const changes: { offset: number; bytes: number; flags: number }[] = [];
    for (let at = 0; at < length; at += SEGMENT_BYTES) {
      const sector = ranges.getUint32(at + 4, true) * HIGH + ranges.getUint32(at, true);
      const sectors = ranges.getUint32(at + 8, true), flags = ranges.getUint32(at + 12, true);
      if ((flags & ~(zeroes ? RANGE_UNMAP : 0)) !== 0) return this.#finish(BlkStatus.unsupported);
      const bytes = sectors * SECTOR, offset = this.#offsetOf(sector, bytes);
      if (offset === -1 || sectors > RANGE_SECTORS_MAX) return this.#finish(BlkStatus.ioError);
      changes.push({ offset, bytes, flags });
    }
    const all = changes.map(({ offset, bytes, flags }) => {
      if (!zeroes) return device.trim(offset, bytes, writeOptions);
      const options: BlockZeroOptions = { ...writeOptions, noHole: (flags & RANGE_UNMAP) === 0 };
      return device.zero(offset, bytes, options);
    });
    // Not before all of them are over is the request.
    this.#await(
      Promise.allSettled(all).then((results) => {
        for (const result of results) if (result.status === "rejected") throw result.reason;
      }),
    );
  }

  #await(promise: Promise<void>): void {
    promise.then(this.#done, this.#failed);
  }

  #fail(error: unknown): void {
    const unsupported = error instanceof AioError && error.errno === EOPNOTSUPP;
    this.#finish(unsupported ? BlkStatus.unsupported : BlkStatus.ioError);
  }

  #finish(status: number): void {
    const { writable } = this.chain;
    writable.setLast(status);
    const complete = status === BlkStatus.ok && this.#length === writable.byteLength - 1;
    // What is written must be told from the beginning on; the status alone may lie behind a gap.
    const written = complete ? writable.byteLength : status === BlkStatus.ok ? this.#length : 0;
    this.queue.complete(this, written);
  }
}
