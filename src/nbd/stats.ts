/**
 * What a server has done, as counters.
 */
import { COMMAND_NAMES } from "./protocol.ts";

/** Counters of a server, from its beginning on. */
export interface NbdStats {
  /** Connections that are open. */
  readonly connections: number;
  /** Connections that have been made. */
  readonly accepted: number;
  /** Connections that were ended as there were too many. */
  readonly refused: number;
  /** Requests whose headers have come, by command; those of no known command are left out. */
  readonly requests: Readonly<Record<string, number>>;
  /** Requests that were answered with an error. */
  readonly errors: number;
  /** Connections that were dropped as the client did not keep to the protocol. */
  readonly violations: number;
  /** Bytes of data that READ has sent, holes not counted. */
  readonly bytesRead: number;
  /** Bytes of data that WRITE has brought. */
  readonly bytesWritten: number;
  /** Receives; where there are many requests one brings several. */
  readonly receives: number;
  /** Sends; where there are many replies one takes several. */
  readonly sends: number;
}

/** The counters while they count. */
export class NbdCounters {
  connections = 0;
  accepted = 0;
  refused = 0;
  errors = 0;
  violations = 0;
  bytesRead = 0;
  bytesWritten = 0;
  receives = 0;
  sends = 0;
  /** By number of the command. */
  readonly requests: number[] = COMMAND_NAMES.map(() => 0);

  /** As they are now. */
  read(): NbdStats {
    const requests = Object.fromEntries(
      COMMAND_NAMES.map((name, command) => [name, this.requests[command]]),
    );
    return { ...this, requests };
  }
}
