/** A Worker that posts back what is posted to it, as Deno alone would do it. */
const worker = globalThis as unknown as Worker;
worker.onmessage = ({ data }) => worker.postMessage(data);

export {};
