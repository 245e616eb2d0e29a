/**
 * Opens the shim and liburing before any test runs (`deno test --preload`).
 *
 * The libraries stay open until the process ends, by design, which the sanitizer would blame on
 * whichever test happens to need them first.
 */
import { loadLiburing, loadShim } from "../ffi/library.ts";

loadShim();
loadLiburing();
