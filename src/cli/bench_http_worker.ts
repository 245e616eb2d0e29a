/** A Worker that asks a server as often as it can, on a few connections that stay. */
const worker = globalThis as unknown as {
  onmessage: (event: MessageEvent<{ port: number; connections: number; ms: number }>) => void;
  postMessage(answered: number): void;
};

const REQUEST = new TextEncoder().encode("GET / HTTP/1.1\r\nhost: bench\r\n\r\n");
const BUFFER_BYTES = 4096;

const open: Deno.Conn[] = [];

worker.onmessage = async ({ data: { port, connections, ms } }) => {
  while (open.length < connections) open.push(await Deno.connect({ port, hostname: "127.0.0.1" }));
  const endMs = performance.now() + ms;
  let answered = 0;
  await Promise.all(open.map(async (connection) => {
    const buffer = new Uint8Array(BUFFER_BYTES);
    while (performance.now() < endMs) {
      await connection.write(REQUEST);
      // An answer is far shorter than the buffer, and comes in one piece.
      if (await connection.read(buffer) === null) throw new Error("error: the server hung up");
      answered++;
    }
  }));
  worker.postMessage(answered);
};

export {};
