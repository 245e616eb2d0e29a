/**
 * QEMU's AioContext for Deno: an event loop for file descriptors with io_uring, epoll and poll
 * monitoring, adaptive userspace polling, and idle handlers that cost nothing.
 *
 * @example Watch an fd
 * ```ts
 * import { AioContext, EventNotifier } from "@aio/context";
 *
 * using ctx = new AioContext();
 * using notifier = new EventNotifier();
 * ctx.setFdHandler(notifier.fd, {
 *   ioRead: () => console.log("woken", notifier.testAndClear()),
 * });
 * notifier.set();
 * ctx.poll(true);
 * ctx.setFdHandler(notifier.fd, null);
 * ```
 *
 * @module
 */
export { AioContext } from "./src/aio_context.ts";
export type { AioContextOptions, AioStats, FdmonInfo } from "./src/context_types.ts";
export type { FdHandler } from "./src/aio_handler.ts";
export type { BottomHalf, BottomHalfOptions } from "./src/bottom_half.ts";
export { type Clock, ManualClock } from "./src/clock.ts";
export { type RemoteContext, wakeContext } from "./src/context_notifier.ts";
export {
  coEnter,
  coReschedule,
  type Coroutine,
  type CoroutineFunction,
  type CoroutineOptions,
  type CoroutineState,
  coSchedule,
  coYield,
} from "./src/coroutine.ts";
export { CoMutex, CoPermit, CoSemaphore } from "./src/coroutine_lock.ts";
export { CoQueue } from "./src/coroutine_queue.ts";
export { EventNotifier } from "./src/event_notifier.ts";
export type { FdmonName } from "./src/fdmon.ts";
export { AioFile, type FallocateMode } from "./src/io/aio_file.ts";
export type { OpenFileOptions } from "./src/io/open_path.ts";
export { AioBuffers, type AllocateOptions, type RequestView } from "./src/io/buffers.ts";
export { AioListener } from "./src/io/listener.ts";
export { type MapOptions, MappedMemory, MAPPING_MAX } from "./src/io/mapped_memory.ts";
export { MemFd, type MemFdOptions, type MemFdSeal } from "./src/io/mem_fd.ts";
export type { FileExtent } from "./src/io/extents.ts";
export type { RequestOptions, WriteOptions } from "./src/io/operation.ts";
export { closeFd } from "./src/io/owned_fd.ts";
export { PidFd } from "./src/io/pid_fd.ts";
export { SignalFd, type SignalInfo } from "./src/io/signal_fd.ts";
export {
  AioSocket,
  type ReceivedMessage,
  type ReceiveOptions,
  type ShutdownHow,
} from "./src/io/socket.ts";
export type { ListenOptions, SocketOptions } from "./src/io/socket_maker.ts";
export type { ExposedFunction } from "./src/threads/link_end.ts";
export { IOThread } from "./src/threads/io_thread.ts";
export {
  IOThreadPool,
  type IOThreadPoolOptions,
  PoolAssignment,
  type PoolPolicy,
} from "./src/threads/io_thread_pool.ts";
export type { ThreadContextOptions } from "./src/threads/io_thread_protocol.ts";
export type {
  FunctionsOf,
  IOThreadMain,
  IOThreadOptions,
  IOThreadScope,
  ThreadFunctions,
} from "./src/threads/io_thread_types.ts";
export { type FunctionName, Peer, type ResultOf, type ValuesOf } from "./src/threads/peer.ts";
export { TimerFd, type TimerFdOptions } from "./src/io/timer_fd.ts";
export type { FileStatus } from "./src/io/statx.ts";
export { PollWord } from "./src/poll_word.ts";
export type { PollParams } from "./src/polling_time.ts";
export type { RunOptions, RunScope } from "./src/runner.ts";
export { type AddedRequest, type CompleteSqe, type PrepareSqe, Sqe } from "./src/sqe_request.ts";
export type { Timer } from "./src/timer_list.ts";
export type {
  CallbackEvent,
  Trace,
  TracedCallback,
  TraceEvents,
  TraceListener,
  TraceName,
} from "./src/trace.ts";
export type { IpAddress, SocketAddress, UnixAddress } from "./ffi/socket_address.ts";
export { AioError } from "./ffi/errno.ts";
