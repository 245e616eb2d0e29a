/** MemFd: size, seals and name are what was asked for. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { loadShim } from "../ffi/library.ts";
import { MemFd, type MemFdOptions, type MemFdSeal } from "../src/io/mem_fd.ts";
import { AioError } from "../mod.ts";
import { after, importLine, programWords, run } from "./child.ts";
import { libc } from "./libc.ts";
import { countingFds } from "./open_files.ts";
import { anyValue, Random } from "./random_values.ts";

const SEED = Number(Deno.env.get("AIO_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 32));

function sizeOf({ fd }: MemFd): number {
  return Deno.statSync(`/proc/self/fd/${fd}`).size;
}

function write({ fd }: MemFd): number {
  return Number(libc.write(fd, Uint8Array.of(7), 1n));
}

function code(call: () => void): string {
  try {
    call();
    return "done";
  } catch (error) {
    return (error as AioError).code;
  }
}

Deno.test("MemFd.truncate: sets the size; what was cut off is zero", () => {
  using memory = new MemFd("test");
  assertEquals(sizeOf(memory), 0);
  for (const size of [1, 4096, 3, 2 ** 40, 2 ** 53 - 1, 0, 10]) {
    memory.truncate(size);
    assertEquals(sizeOf(memory), size);
  }
  assertEquals(write(memory), 1);
  memory.truncate(0);
  memory.truncate(1);
  assertEquals(Deno.readFileSync(`/proc/self/fd/${memory.fd}`), Uint8Array.of(0));
});

Deno.test("MemFd: has its size and name from the start, and closes on exec", () => {
  for (const name of ["guest-ram", "", "ä €/..", "x".repeat(249), "ä".repeat(124)]) {
    using memory = new MemFd(name, { size: 12_345 });
    assertEquals(sizeOf(memory), 12_345);
    const link = Deno.readLinkSync(`/proc/self/fd/${memory.fd}`);
    assertEquals(link, `/memfd:${name} (deleted)`);
    assertEquals(loadShim().aio_fd_check(memory.fd), 1, "FD_CLOEXEC");
  }
});

Deno.test("MemFd.seal: rules out what it says and nothing else", () => {
  const results = (...seals: MemFdSeal[]) => {
    using memory = new MemFd("test", { size: 10, sealable: true });
    memory.seal(...seals);
    return [
      code(() => memory.truncate(5)),
      code(() => memory.truncate(20)),
      write(memory) === 1 ? "done" : "refused",
      code(() => memory.seal("shrink")),
    ];
  };
  assertEquals(results(), ["done", "done", "done", "done"]);
  assertEquals(results("shrink"), ["EPERM", "done", "done", "done"]);
  assertEquals(results("grow"), ["done", "EPERM", "done", "done"]);
  assertEquals(results("write"), ["done", "done", "refused", "done"]);
  assertEquals(results("futureWrite"), ["done", "done", "refused", "done"]);
  assertEquals(results("seal"), ["done", "done", "done", "EPERM"]);
  assertEquals(results("shrink", "grow", "seal"), ["EPERM", "EPERM", "done", "EPERM"]);
});

Deno.test("MemFd: an error says what forbids it", () => {
  using plain = new MemFd("test", { size: 10 });
  const why = "EPERM (it was made without `sealable`, or `seal` rules it out)";
  assertThrows(() => plain.seal("grow"), AioError, why);
  using sealed = new MemFd("test", { size: 10, sealable: true });
  sealed.seal("shrink");
  assertThrows(
    () => sealed.truncate(9),
    AioError,
    `Cannot set memory fd ${sealed.fd} to 9 bytes as ftruncate failed: EPERM (a seal forbids it)`,
  );
});

Deno.test("MemFd.truncate: beyond the limit of sizes an error, where the kernel would kill", async () => {
  const program = programWords(`${importLine("MemFd", "src/io/mem_fd.ts")}
    using memory = new MemFd("test");
    const attempts = [() => memory.truncate(2 ** 30), () => new MemFd("test", { size: 2 ** 40 })];
    for (const attempt of attempts) try { attempt(); } catch (error) { console.log(error.code); }
    memory.truncate(1000);
    const files = [...Deno.readDirSync("/proc/self/fd")].map(({ name }) => {
      try { return Deno.readLinkSync("/proc/self/fd/" + name); } catch { return ""; }
    });
    console.log(files.filter((file) => file.startsWith("/memfd:test")).length);`);
  // In units of 512 bytes or 1 KiB: enough for what Deno itself writes.
  const { stdout, code } = await run(after("ulimit -f 200000", program));
  assertEquals([stdout, code], ["EFBIG\nEFBIG\n1\n", 0]);
});

Deno.test(
  "MemFd: refuses names, sizes, options and seals that are none",
  countingFds(() => {
    for (const name of [undefined, null, 7, {}, "a\0b", "\ud800"]) {
      assertThrows(() => new MemFd(name as string), TypeError, "its name is not a name");
    }
    for (const name of ["x".repeat(250), "ä".repeat(125)]) {
      const message = "Cannot make memory as its name is longer than 249 bytes: 250";
      assertThrows(() => new MemFd(name), RangeError, message);
    }
    for (const options of [null, 7, "sealable"]) {
      const make = () => new MemFd("test", options as MemFdOptions);
      assertThrows(make, TypeError, "the options are no object");
    }
    for (const sealable of [1, "yes", null]) {
      const options = { sealable } as unknown as MemFdOptions;
      assertThrows(() => new MemFd("test", options), TypeError, "`sealable` is no boolean");
    }
    using memory = new MemFd("test", { size: 7, sealable: true });
    for (const value of [-1, 0.5, NaN, Infinity, 2 ** 53, 1e300, "7", 7n, null, {}]) {
      const size = value as number, message = "it is not a whole number >= 0";
      assertThrows(() => memory.truncate(size), RangeError, message);
      assertThrows(() => new MemFd("test", { size }), RangeError, message);
    }
    assertEquals(sizeOf(memory), 7);
    for (const seal of ["", "toString", "future_write", 1, null, undefined]) {
      const seals = ["grow", seal] as MemFdSeal[];
      assertThrows(() => memory.seal(...seals), TypeError, "there is no such seal");
    }
    memory.truncate(8);
  }),
);

Deno.test(
  "MemFd: once disposed it refuses every use; disposing twice is harmless",
  countingFds(() => {
    const memory = new MemFd("test", { sealable: true });
    memory[Symbol.dispose]();
    memory[Symbol.dispose]();
    const uses = [() => memory.fd, () => memory.truncate(1), () => memory.seal("grow")];
    for (const use of uses) assertThrows(use, TypeError, "Cannot use memory as it is disposed");
  }),
);

Deno.test(
  `MemFd: any values do no harm (AIO_TEST_SEED=${SEED})`,
  countingFds(() => {
    const random = new Random(SEED);
    for (let round = 0; round < 2000; round++) {
      try {
        const options = random.pick([
          { size: anyValue(random) },
          { sealable: anyValue(random) },
          anyValue(random),
        ]);
        const name = random.once(2) ? "test" : anyValue(random);
        using memory = new MemFd(name as string, options as MemFdOptions);
        memory.truncate(anyValue(random) as number);
        memory.seal(anyValue(random) as MemFdSeal);
      } catch (error) {
        assert(error instanceof Error);
      }
    }
  }),
);
