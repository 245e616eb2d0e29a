/** The compiled shim inside the package: built from the source at hand, and what it should be. */
import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { createHash } from "node:crypto";
import { shimPrebuilt } from "../ffi/shim_prebuilt.ts";
import { shimSymbols } from "../ffi/shim_symbols.ts";
import { hashShimSource, sourceFiles as librarySources } from "../shim/build.ts";
import { newFolder } from "./child.ts";

const SOURCE = new URL("../shim/", import.meta.url);

/** e_machine of each architecture. */
const MACHINE = { x86_64: 62, aarch64: 183 } as const;
const ARCHITECTURES = Object.keys(MACHINE) as (keyof typeof MACHINE)[];

const ELF_MAGIC = 0x464c457f;
const ELF_CLASS_64 = 2;
const ELF_LITTLE_ENDIAN = 1;
const ELF_SHARED_OBJECT = 3;
const SECTION_DYNSYM = 11;
const SYMBOL_BYTES = 24;
const BINDING_LOCAL = 0;

/** The newest version of the C library that Deno itself needs. */
const GLIBC_MINOR_MAX = 27;

/** Lines of C in the library, header and guest included. */
const SOURCE_LINES_MAX = 1_900;

/** FFI types of the C types in shim/aio.h. */
const FFI_TYPES: Readonly<Record<string, string>> = {
  int32_t: "i32",
  uint32_t: "u32",
  uint64_t: "u64",
  double: "f64",
  void: "void",
};

function sourceFiles(): string[] {
  return librarySources(SOURCE);
}

Deno.test("shimPrebuilt: was built from the C source at hand (deno task shim)", () => {
  assertEquals(shimPrebuilt.sourceSha256, hashShimSource(SOURCE));
});

Deno.test("hashShimSource: tells every change of a .c or .h file, and nothing else", () => {
  const folder = newFolder();
  const url = new URL(`file://${folder}/`);
  for (const name of sourceFiles()) Deno.copyFileSync(new URL(name, SOURCE), `${folder}/${name}`);
  const unchanged = hashShimSource(SOURCE);
  assertEquals(hashShimSource(url), unchanged);
  for (const name of sourceFiles()) {
    Deno.writeTextFileSync(`${folder}/${name}`, "\n", { append: true });
    assertNotEquals(hashShimSource(url), unchanged, name);
    Deno.copyFileSync(new URL(name, SOURCE), `${folder}/${name}`);
  }
  Deno.renameSync(`${folder}/guest.c`, `${folder}/other.c`);
  assertNotEquals(hashShimSource(url), unchanged, "another name");
  Deno.renameSync(`${folder}/other.c`, `${folder}/guest.c`);
  Deno.writeTextFileSync(`${folder}/notes.md`, "not C");
  Deno.writeTextFileSync(`${folder}/selftest.c`, "not in the library");
  assertEquals(hashShimSource(url), unchanged);
});

for (const arch of ARCHITECTURES) {
  const build = shimPrebuilt.builds[arch];
  const bytes = Uint8Array.fromBase64(build.base64);

  Deno.test(`shimPrebuilt: ${arch} has the sha256 that is noted`, () => {
    assertEquals(createHash("sha256").update(bytes).digest("hex"), build.sha256);
  });

  Deno.test(`shimPrebuilt: ${arch} is a shared object for it that exports what is named`, () => {
    const file = new DataView(bytes.buffer);
    assertEquals(file.getUint32(0, true), ELF_MAGIC);
    assertEquals([file.getUint8(4), file.getUint8(5)], [ELF_CLASS_64, ELF_LITTLE_ENDIAN]);
    assertEquals(file.getUint16(16, true), ELF_SHARED_OBJECT);
    assertEquals(file.getUint16(18, true), MACHINE[arch]);
    assertEquals(exportedSymbols(file), Object.keys(shimSymbols).sort());
  });
}

Deno.test("shimPrebuilt: loads with every C library that Deno runs with", () => {
  for (const arch of ARCHITECTURES) {
    const text = atob(shimPrebuilt.builds[arch].base64.replaceAll("\n", ""));
    const versions = [...text.matchAll(/GLIBC_2\.(\d+)/g)].map(([, minor]) => Number(minor));
    assert(versions.length >= 2, arch);
    assert(versions.every((minor) => minor <= GLIBC_MINOR_MAX), `${arch}: ${versions}`);
  }
});

/** Names that a 64-bit little-endian shared object defines for others, sorted. */
function exportedSymbols(file: DataView): string[] {
  const word = (at: number) => Number(file.getBigUint64(at, true));
  const sections = Array.from({ length: file.getUint16(0x3c, true) }, (_, number) => {
    const at = word(0x28) + number * file.getUint16(0x3a, true);
    const link = file.getUint32(at + 0x28, true);
    return {
      type: file.getUint32(at + 4, true),
      offset: word(at + 0x18),
      size: word(at + 0x20),
      link,
    };
  });
  const symbols = sections.find(({ type }) => type === SECTION_DYNSYM);
  assert(symbols !== undefined, "there is no table of dynamic symbols");
  const names = new Uint8Array(file.buffer, sections[symbols.link].offset);
  const exported: string[] = [];
  for (let at = symbols.offset; at < symbols.offset + symbols.size; at += SYMBOL_BYTES) {
    // An undefined symbol, which others define, belongs to no section; a local one is for nobody.
    const binding = file.getUint8(at + 4) >> 4;
    if (file.getUint16(at + 6, true) === 0 || binding === BINDING_LOCAL) continue;
    const name = names.subarray(file.getUint32(at, true));
    exported.push(new TextDecoder().decode(name.subarray(0, name.indexOf(0))));
  }
  return exported.sort();
}

Deno.test("shimSymbols: has the parameters and the result of each declaration in aio.h", () => {
  const header = Deno.readTextFileSync(new URL("aio.h", SOURCE));
  const declared: Record<string, { parameters: string[]; result: string }> = {};
  for (
    const [, result, name, list] of header.matchAll(/^AIO_EXPORT ([\w ]+[ *])(\w+)\(([^)]*)\);/gm)
  ) {
    const parameters = list === "void" ? [] : list.split(",").map(ffiType);
    declared[name] = { parameters, result: ffiType(result) };
  }
  const named = Object.fromEntries(
    Object.entries(shimSymbols).map(([name, { parameters, result }]) => {
      // To C a buffer is a pointer, too.
      const types = parameters.map((type) => type === "buffer" ? "pointer" : type);
      return [name, { parameters: types, result }];
    }),
  );
  assertEquals(named, declared);
});

/** The FFI type of a C parameter, which is a type and a name. */
function ffiType(parameter: string): string {
  return parameter.includes("*") ? "pointer" : FFI_TYPES[parameter.trim().split(/\s+/)[0]];
}

Deno.test("shim/: the C source stays small enough to be read in half an hour", () => {
  const lines = sourceFiles().map((name) => {
    return Deno.readTextFileSync(new URL(name, SOURCE)).split("\n").length - 1;
  });
  const sum = lines.reduce((total, count) => total + count, 0);
  assert(sum < SOURCE_LINES_MAX, `${sum} lines`);
});
