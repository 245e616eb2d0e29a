/**
 * What a context has for requests: their queue, and all that is made when the first one is.
 *
 * The device that carries requests out is the backend itself where it has a ring; what that lacks is
 * put together from readiness and worker threads. Nothing here is opened before it is needed.
 */
import type { Shim } from "../ffi/shim_symbols.ts";
import { Sockets } from "../ffi/socket.ts";
import type { System } from "../ffi/system.ts";
import { EmulatedRequests } from "./emulated_requests.ts";
import type { HandlerRegistry } from "./handler_registry.ts";
import { AioBuffers } from "./io/buffers.ts";
import { CachedReads } from "./io/cached_reads.ts";
import { DirectSends } from "./io/direct_sends.ts";
import { IoRequests } from "./io/io_request.ts";
import { SocketMaker } from "./io/socket_maker.ts";
import type { RequestDevice } from "./request.ts";
import { RequestQueue } from "./request_queue.ts";
import {
  type AddedRequest,
  type CompleteSqe,
  type PrepareSqe,
  Sqe,
  SqeRequest,
} from "./sqe_request.ts";
import { RingFallback } from "./ring_fallback.ts";
import type { Trace } from "./trace.ts";

/** What the requests of a context need of it. */
export interface ContextRequestParts {
  readonly shim: Shim;
  readonly system: System;
  readonly trace: Trace;
  /** Called when the loop must not sleep on what it knew before. */
  readonly changed: () => void;
  /** Keeps the address of a thread pool where it is found when this thread is dropped. */
  readonly keepPool: (address: bigint) => void;
  /** Receives what completions throw. */
  readonly report: (error: unknown) => void;
  /** Throws where the context is disposed. */
  readonly requireOpen: (verb: string) => void;
}

/** The requests of one context. */
export class ContextRequests {
  readonly queue: RequestQueue;
  readonly #parts: ContextRequestParts;
  #handlers: HandlerRegistry | null = null;
  #buffers: AioBuffers | null = null;
  #io: IoRequests | null = null;
  #sockets: SocketMaker | null = null;
  #sqe: Sqe | null = null;

  constructor(parts: ContextRequestParts) {
    const { trace, changed, report, system } = parts;
    const close = (fd: number) => system.close(fd);
    this.#parts = parts;
    this.queue = new RequestQueue(() => this.#openDevice(), changed, trace, report, close);
  }

  /** Says which backend there is, before the first request. */
  useHandlers(handlers: HandlerRegistry): void {
    this.#handlers = handlers;
  }

  /** Adds a request that a caller describes. */
  addSqe(prepare: PrepareSqe, complete: CompleteSqe): AddedRequest {
    const sqe = this.#sqe ??= new Sqe();
    sqe.fill(prepare);
    this.#parts.requireOpen("add a request"); // The caller may have disposed the context.
    const request = new SqeRequest(this.queue, sqe, complete);
    this.queue.add(request);
    return request;
  }

  /** Memory that requests use without a copy. */
  get buffers(): AioBuffers {
    return this.#buffers ??= new AioBuffers();
  }

  /** Sockets and listeners. */
  get sockets(): SocketMaker {
    const { shim } = this.#parts;
    const ring = this.#handlers!.fdmon.requests !== null;
    return this.#sockets ??= new SocketMaker(this.io, new Sockets(shim), ring);
  }

  /** Requests with promises. */
  get io(): IoRequests {
    return this.#io ??= this.#openIo();
  }

  #openIo(): IoRequests {
    const { shim, system, requireOpen } = this.#parts;
    const { queue, buffers } = this;
    const cached = new CachedReads(shim, system, queue);
    const sends = new DirectSends(shim, system, queue);
    return new IoRequests({ system, queue, buffers, cached, sends, requireOpen });
  }

  #openDevice(): RequestDevice {
    const handlers = this.#handlers!;
    const { shim, system, trace, keepPool } = this.#parts;
    const parts = { shim, system, handlers, queue: this.queue, trace, keepPool };
    const emulate = () => new EmulatedRequests(parts);
    const ring = handlers.fdmon.requests;
    return ring === null ? emulate() : new RingFallback(ring, emulate);
  }
}
