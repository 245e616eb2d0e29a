/**
 * Where `nbd` listens: at a unix socket, at a TCP address, or on sockets that were handed to it.
 *
 * A path that a server has left behind is taken over, one where somebody listens is not. Invariant:
 * what was made here is gone once `close` settles, unless somebody has put something else there.
 */
import { resolve } from "node:path";
import {
  type AioContext,
  AioError,
  type AioListener,
  type IpAddress,
  type RunScope,
  type SocketAddress,
} from "../../mod.ts";
import { CommandError, UsageError } from "./exit.ts";
import { DEFAULT_ADDRESS, type NbdOptions, type UnixPlan } from "./nbd_options.ts";

/** A listener, and how clients find it. */
export interface Door {
  readonly listener: AioListener;
  readonly uri: string;
  /** Where somebody on another machine may reach it: the address. */
  readonly reachable: string | null;
  /** Removes its path, where it has one. */
  remove(): void;
}

/** The first fd that is handed over. */
const ACTIVATED_FD = 3, ACTIVATED_MAX = 1024;
const ALL_BITS = 0o777;

/** Listens wherever it is to; with an error, nowhere. */
export async function openDoors(
  ctx: AioContext,
  host: RunScope["host"],
  { socket, address }: NbdOptions,
): Promise<Door[]> {
  const fds = activatedFds();
  if (fds.length !== 0 && (socket !== undefined || address !== undefined)) {
    const option = socket !== undefined ? "--socket" : "--address";
    throw new UsageError(`Cannot use ${option} as sockets were handed over (LISTEN_FDS)`);
  }
  const doors: Door[] = [];
  try {
    for (const fd of fds) doors.push(openAt(ctx, { fd }));
    if (socket !== undefined) doors.push(await openPath(ctx, host, socket));
    if (address !== undefined) doors.push(openAt(ctx, address));
    if (doors.length === 0) doors.push(openAt(ctx, DEFAULT_ADDRESS));
    return doors;
  } catch (error) {
    for (const { listener, remove } of doors) {
      remove();
      await listener.close();
    }
    // What the socket layer says of an address is about an option.
    const isBad = error instanceof TypeError || error instanceof RangeError;
    throw isBad ? new UsageError(error.message) : error;
  }
}

/** Sockets that whoever has started this process has opened for it, as systemd does. */
function activatedFds(): number[] {
  const { LISTEN_PID, LISTEN_FDS } = Deno.env.toObject();
  if (LISTEN_PID !== String(Deno.pid) || LISTEN_FDS === undefined) return [];
  const count = Number(LISTEN_FDS);
  if (!Number.isInteger(count) || count < 1 || count > ACTIVATED_MAX) {
    throw new CommandError(
      `Cannot take sockets over as LISTEN_FDS is not 1 to ${ACTIVATED_MAX}: ${LISTEN_FDS}`,
    );
  }
  return Array.from({ length: count }, (_, index) => ACTIVATED_FD + index);
}

function openAt(ctx: AioContext, at: SocketAddress | { fd: number }): Door {
  const listener = ctx.listen(at);
  const { address } = listener;
  const isFar = "hostname" in address && !isLoopback(address.hostname);
  return {
    listener,
    uri: uriOf(address),
    reachable: isFar ? authority(address) : null,
    remove: () => {},
  };
}

async function openPath(
  ctx: AioContext,
  host: RunScope["host"],
  plan: UnixPlan,
): Promise<Door> {
  const { path } = plan;
  let door: Door;
  try {
    door = bindPath(ctx, plan);
  } catch (error) {
    if (!(error instanceof AioError) || error.code !== "EADDRINUSE") throw error;
    if (!await host(isStale(path))) throw error;
    Deno.removeSync(path);
    door = bindPath(ctx, plan);
  }
  const { ino } = Deno.lstatSync(path);
  return { ...door, remove: () => removeSocket(path, ino) };
}

/** Binds with the mode there from the beginning, so that nobody slips in before it is set. */
function bindPath(ctx: AioContext, { path, mode }: UnixPlan): Door {
  if (mode === undefined) return openAt(ctx, { path });
  const umask = Deno.umask(ALL_BITS & ~mode);
  try {
    return openAt(ctx, { path });
  } finally {
    Deno.umask(umask);
  }
}

/** Whether the path is that of a socket where nobody listens any more. */
async function isStale(path: string): Promise<boolean> {
  if (!Deno.lstatSync(path).isSocket) return false;
  try {
    (await Deno.connect({ transport: "unix", path })).close();
    return false;
  } catch (error) {
    // Any other error is that of a server, as one whose backlog is full.
    return error instanceof Deno.errors.ConnectionRefused;
  }
}

function removeSocket(path: string, ino: number | null): void {
  try {
    if (Deno.lstatSync(path).ino === ino) Deno.removeSync(path);
  } catch {
    // Somebody was faster.
  }
}

function uriOf(address: SocketAddress): string {
  if ("hostname" in address) return `nbd://${authority(address)}`;
  const { path } = address;
  if (path.startsWith("\0")) return `nbd+unix:///?socket=@${encodePath(path.slice(1))}`;
  return `nbd+unix:///?socket=${encodePath(resolve(path))}`;
}

/** A path as part of a URI, which people still can read. */
function encodePath(path: string): string {
  return encodeURIComponent(path).replaceAll("%2F", "/");
}

function authority({ hostname, port }: IpAddress): string {
  return hostname.includes(":") ? `[${hostname}]:${port}` : `${hostname}:${port}`;
}

function isLoopback(hostname: string): boolean {
  return hostname === "::1" || hostname.startsWith("127.") || hostname.startsWith("::ffff:127.");
}
