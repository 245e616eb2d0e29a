/**
 * A thread that waits for fds while the loop's own thread is Deno's, and tells Deno's loop when one
 * is ready.
 *
 * It tells by a byte through a socket, which Deno watches: unlike a callback from a foreign thread
 * that keeps no process alive unless asked to, and does no harm where the isolate is gone; the thread
 * then ends by itself. Invariant: between `arm` and the byte, or `disarm`, the thread waits; a byte
 * that was on its way when it was disarmed still comes.
 */
import { AioError } from "./errno.ts";
import { allocateNative, type NativeMemory } from "./memory.ts";
import type { Shim } from "./shim_symbols.ts";

/** What is used of a socket of node:net. */
interface HostSocket {
  on(event: "data" | "error", listener: () => void): void;
  ref(): void;
  unref(): void;
  destroy(): void;
}

/** What is used of Deno's `process`. */
interface HostProcess {
  getBuiltinModule(name: "node:net"): {
    Socket: new (options: { fd: number; readable: boolean; writable: boolean }) => HostSocket;
  };
}

/** Waits on a thread of its own. */
export class Waiter {
  readonly #shim: Shim;
  readonly #keep: (fd: number, inode: number) => void;
  readonly #socket: HostSocket;
  readonly #until = allocateNative(8);
  /** The C side; null once it is freed. */
  #waiter: Deno.PointerObject | null;

  /**
   * Starts the thread.
   *
   * @param fired called when an fd is ready or the time is up
   * @param keep is given the end of the thread's socket that Deno closes, and that end's inode; 0
   *   where there is none any more
   * @throws {AioError} when there is no thread or fd to be had
   */
  constructor(shim: Shim, fired: () => void, keep: (fd: number, inode: number) => void) {
    this.#shim = shim;
    this.#keep = keep;
    const fd = allocateNative(8), handle = allocateNative(8);
    const opened = shim.aio_waiter_open(fd.pointer, handle.pointer);
    if (opened < 0) {
      throw new AioError("Cannot start a thread that waits", "pthread_create", -opened);
    }
    this.#waiter = Deno.UnsafePointer.create(new BigUint64Array(handle.buffer)[0]);
    keep(fd.i32[0], shim.aio_fd_inode(fd.i32[0]));
    // Loaded with the first attached context only.
    const { process } = globalThis as unknown as { process: HostProcess };
    const { Socket } = process.getBuiltinModule("node:net");
    this.#socket = new Socket({ fd: fd.i32[0], readable: true, writable: false });
    this.#socket.on("data", fired);
    this.#socket.unref();
  }

  /** The process stays alive while the thread waits. */
  ref(): void {
    this.#socket.ref();
  }

  /** It does not any more. */
  unref(): void {
    this.#socket.unref();
  }

  /**
   * Waits for one of `count` struct pollfd, which are copied.
   *
   * @param untilNs at the latest until the system's clock is there; negative: for ever
   */
  arm(fds: NativeMemory, count: number, untilNs: number): void {
    this.#until.f64[0] = untilNs;
    const armed = this.#shim.aio_waiter_arm(
      this.#open(),
      fds.pointer,
      count,
      this.#until.pointer,
    );
    if (armed < 0) throw new AioError("Cannot wait for events", "ppoll", -armed);
  }

  /** Waits no more; false where the byte has been sent. */
  disarm(): boolean {
    return this.#shim.aio_waiter_disarm(this.#open()) === 1;
  }

  /** Ends the thread. */
  dispose(): void {
    if (this.#waiter === null) return;
    this.#shim.aio_waiter_close(this.#waiter);
    this.#waiter = null;
    this.#keep(0, 0);
    this.#socket.destroy();
  }

  #open(): Deno.PointerObject {
    if (this.#waiter === null) throw new Error("assertion failed: waiter is disposed");
    return this.#waiter;
  }
}
