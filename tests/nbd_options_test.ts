/** The options of `nbd`: what they mean, and which are refused before anything is opened. */
import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { UsageError } from "../src/cli/exit.ts";
import { type NbdArguments, parseNbdOptions } from "../src/cli/nbd_options.ts";
import { cliWords, run } from "./child.ts";

const DEFAULTS: NbdArguments = {
  cache: "writeback",
  discard: "unmap",
  shared: "0",
  threads: "1",
};

const parse = (args: Partial<NbdArguments>, ...files: string[]) =>
  parseNbdOptions({ ...DEFAULTS, ...args }, files);

Deno.test("parseNbdOptions: files, --export and --memory become exports", () => {
  const exports = [
    "file=/b/two.img,name=two,description=the second,, of five,readonly",
    "memory=1.5K,default,name=small",
    "name=,file=a=b",
  ];
  const { disks } = parse({ export: exports, memory: ["1G"], readOnly: false }, "dir/one.img");
  const disk = (name: string, source: string | number, others = {}) => ({
    ...{ name, source, description: "", readOnly: false, isDefault: false },
    ...others,
  });
  assertEquals(disks, [
    disk("one.img", "dir/one.img"),
    disk("two", "/b/two.img", { description: "the second, of five", readOnly: true }),
    disk("small", 1536, { isDefault: true }),
    disk("", "a=b"),
    disk("memory", 2 ** 30),
  ]);
  assertThrows(() => parse({ memory: ["1", "2"] }), UsageError, 'of the name "memory"');
});

Deno.test("parseNbdOptions: the first export is the default one, unless one says that it is", () => {
  const defaultOf = (args: Partial<NbdArguments>, ...files: string[]) =>
    parse(args, ...files).disks.filter(({ isDefault }) => isDefault).map(({ name }) => name);
  assertEquals(defaultOf({ memory: ["1M"], export: ["file=b"] }, "a", "c"), ["a"]);
  assertEquals(defaultOf({ memory: ["1M"], export: ["file=b"] }), ["b"]);
  assertEquals(defaultOf({ export: ["file=b,default=on", "file=d"] }, "a", "c"), ["b"]);
});

Deno.test("parseNbdOptions: --read-only is for all, readonly for one", () => {
  const readOnly = (args: Partial<NbdArguments>) =>
    parse(args, "a").disks.map(({ readOnly }) => readOnly);
  assertEquals(readOnly({ export: ["file=b"], readOnly: true }), [true, true]);
  assertEquals(readOnly({ export: ["file=b,read-only=on"] }), [false, true]);
  assertEquals(readOnly({ export: ["file=b,read-only=off"] }), [false, false]);
});

Deno.test("parseNbdOptions: sizes", () => {
  const sizeOf = (text: string) => parse({ memory: [text] }).disks[0].source;
  const sizes = ["1", "64k", "1.5M", "2G", "3T", "1P"].map(sizeOf);
  assertEquals(sizes, [1, 65_536, 1_572_864, 2 ** 31, 3 * 2 ** 40, 2 ** 50]);
  for (const text of ["", "M", "0", "-1", "1X", "8E", "1 M", "0.5"]) {
    assertThrows(() => sizeOf(text), UsageError, "Cannot use --memory");
  }
});

Deno.test("parseNbdOptions: addresses", () => {
  const read = (address: string) => Object.values(parse({ address }, "a").address!);
  assertEquals(read("10.0.0.1:99"), ["10.0.0.1", 99]);
  assertEquals(read(":99"), ["127.0.0.1", 99]);
  assertEquals(read("99"), ["127.0.0.1", 99]);
  assertEquals(read("10.0.0.1"), ["10.0.0.1", 10_809]);
  assertEquals(read("[::1]:0"), ["::1", 0]);
  assertEquals(read("[fe80::1%2]"), ["fe80::1%2", 10_809]);
  for (const address of ["", "::1", "a:b", "1.2.3.4:", "1.2.3.4:99999", "[::1]x"]) {
    assertThrows(() => read(address), UsageError, `Cannot use --address ${address || '""'} as`);
  }
});

Deno.test("parseNbdOptions: cache, discard, poll parameters and modes", () => {
  const caches = ["writeback", "writethrough", "none", "directsync", "unsafe"].map((cache) => {
    const { device } = parse({ cache }, "a");
    return [device.direct, device.cache];
  });
  assertEquals(caches, [
    [false, "writeback"],
    [false, "writethrough"],
    [true, "none"],
    [true, "writethrough"],
    [false, "unsafe"],
  ]);
  assertEquals(parse({ direct: true, cache: "writethrough" }, "a").device.direct, true);
  assertEquals(parse({}, "a").device.discard, true);
  assertEquals(parse({ discard: "ignore" }, "a").device.discard, false);
  assertEquals(parse({ socket: "s", socketMode: "0660" }, "a").socket, { path: "s", mode: 0o660 });
  const { context } = parse({
    ...{ fdmon: "epoll", pollMaxNs: "65536", pollGrow: "3", pollShrink: "4" },
    ...{ pollIdleNs: "5", pollWeight: "6" },
  }, "a");
  const pollParams = { maxNs: 65_536, grow: 3, shrink: 4, idleNs: 5, weight: 6 };
  assertEquals(context, { fdmon: "epoll", pollParams });
  assertEquals(parse({}, "a").context, {
    fdmon: undefined,
    pollParams: navigator.hardwareConcurrency > 1 ? { maxNs: 131_072 } : {},
  });
});

/** Words of the command line, and what is said to them. */
const BAD: readonly [args: string, message: string][] = [
  ["", "Cannot serve as there is neither a file nor --export nor --memory"],
  ["a b/a", 'Cannot serve two exports of the name "a": --export name=NAME,file=FILE'],
  ["--export name=x", "Cannot use --export name=x as it needs one of file= and memory="],
  ["--export file=a,memory=1M", "as it needs one of file= and memory="],
  [`--export file=a,name=${"x".repeat(4097)}`, "as a name of 4097 bytes is longer than 4096"],
  ["--export file=a,size=3", "as it has size, which is none of name, file, memory"],
  ["--export file=a,file=b", "as it has two file"],
  ["--export file=a,name", "as name has no value"],
  ["--export file=a,readonly=maybe", "Cannot use read-only=maybe as it is not on or off"],
  ["--export file=a,default --export file=b,default", "as 2 exports are the default"],
  ["--memory many", "Cannot use --memory many as it is not a size, such as 64M"],
  ["a --cache fast", "Cannot use --cache fast as it is not one of writeback, writethrough, none"],
  ["a --discard all", "Cannot use --discard all as it is not one of ignore, unmap"],
  ["a --shared many", "Cannot use --shared many as it is not a whole number"],
  ["a --threads 0", "Cannot use --threads 0 as it is not between 1 and 256"],
  ["a --fdmon kqueue", "Cannot use --fdmon kqueue as it is not one of io_uring, epoll, poll"],
  ["a --poll-max-ns -1", "Cannot use --poll-max-ns -1 as it is not between 0 and"],
  ["a --poll-grow 1", "Cannot use --poll-grow 1 as a factor of 1 never grows"],
  ["a --poll-weight 17", "Cannot use --poll-weight 17 as it is not between 0 and 16"],
  ["a --socket dir/", 'Cannot use --socket "dir/" as it is not the name of a file'],
  ["a --socket-mode 660", "Cannot use --socket-mode 660 as there is no --socket"],
  ["a --socket s --socket-mode 999", "Cannot use --socket-mode 999 as it is not a mode"],
  ["a --pid-file /", 'Cannot use --pid-file "/" as it is not the name of a file'],
];

Deno.test("parseNbdOptions: what cannot be used is refused, and said how", () => {
  for (const [text, message] of BAD) {
    assertThrows(
      () => parseWords(text.split(" ").filter((word) => word !== "")),
      UsageError,
      message,
    );
  }
});

/** Options and files from words, for options that all take a value. */
function parseWords(words: readonly string[]) {
  const args: Record<string, string | string[]> = {}, files: string[] = [];
  for (let at = 0; at < words.length; at++) {
    if (!words[at].startsWith("--")) {
      files.push(words[at]);
      continue;
    }
    const name = words[at].slice(2).replace(/-(.)/g, (_, letter) => letter.toUpperCase());
    const value = words[++at];
    if (name === "export" || name === "memory") {
      args[name] = [...(args[name] ?? []), value];
    } else args[name] = value;
  }
  return parse(args as Partial<NbdArguments>, ...files);
}

Deno.test("nbd: bad options are usage errors of one line, and --help names all", async () => {
  const commands: readonly [args: string[], message: string][] = [
    [[], "error: Cannot serve as there is neither a file nor --export nor --memory\n"],
    [["--threads", "many", "a"], "error: Cannot use --threads many as it is not a whole number\n"],
    [["--export"], "error: option '--export <list>' argument missing\n"],
    [
      ["--socket", "x".repeat(200), "/etc/hosts", "-r"],
      "error: Cannot use socket path as it is longer",
    ],
    [["--address", "nowhere.example", "/etc/hosts", "-r"], "its hostname is not an IP address"],
  ];
  await Promise.all(commands.map(async ([args, message]) => {
    const { code, stdout, stderr } = await run(cliWords(["nbd", ...args]));
    assertEquals([code, stdout], [2, ""], stderr);
    assertStringIncludes(stderr, message);
  }));
  const { code, stdout } = await run(cliWords(["nbd", "--help"]));
  assertEquals(code, 0);
  const names = Object.keys({
    ...DEFAULTS,
    export: 0,
    memory: 0,
    socket: 0,
    address: 0,
    direct: 0,
  });
  const others = ["socket-mode", "read-only", "fdmon", "poll-max-ns", "poll-grow", "poll-shrink"];
  const rest = ["poll-idle-ns", "poll-weight", "pid-file", "json", "verbose"];
  for (const name of [...names, ...others, ...rest]) assertStringIncludes(stdout, `--${name}`);
});
