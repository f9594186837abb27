"""A null kernel compiler: stands where sfpi's riscv-tt-elf-g++ is looked for, and every kernel it makes does nothing.

On the mock no kernel is ever executed, but the host still compiles, links, parses and packs each one.
This writes the smallest ELF file that the loader accepts, so that all of it can run on any machine.
"""

import struct
from pathlib import Path

ET_EXEC, EM_RISCV = 2, 243
PT_LOAD, PF_X, PF_W, PF_R = 1, 1, 2, 4
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA = 1, 2, 3, 4
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_INFO_LINK = 1, 2, 4, 64
STB_GLOBAL, STT_OBJECT, STT_FUNC = 1, 1, 2

TEXT_ADDRESS = 0x5000  # anywhere in L1: kernels are relocated when they are packed
DATA_ADDRESS = 0xFFB00000  # start of a Tensix core's private memory
RET = struct.pack("<I", 0x00008067)
HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
SEGMENT = struct.Struct("<8I")
SECTION = struct.Struct("<10I")
SYMBOL = struct.Struct("<IIIBBH")
RELOCATION = struct.Struct("<IIi")


def null_kernel() -> bytes:
    """An RV32 executable: a text segment that returns, one word of data, symbols, and a relocation that changes nothing."""
    text, data = RET * 4, struct.pack("<4I", 1, 0, 0, 0)
    symbol_names = b"\0_start\0marker\0"
    section_names = b"\0.text\0.data\0.rela.text\0.symtab\0.strtab\0.shstrtab\0"
    symbols = SYMBOL.pack(0, 0, 0, 0, 0, 0)
    symbols += SYMBOL.pack(symbol_names.index(b"_start"), TEXT_ADDRESS, len(text), STB_GLOBAL << 4 | STT_FUNC, 0, 1)
    symbols += SYMBOL.pack(symbol_names.index(b"marker"), DATA_ADDRESS, 4, STB_GLOBAL << 4 | STT_OBJECT, 0, 2)
    relocations = RELOCATION.pack(TEXT_ADDRESS, 1 << 8, 0)  # type 0, R_RISCV_NONE, against _start

    # name, type, flags, address, contents, link, info, alignment, entry size
    sections = [
        (b".text", SHT_PROGBITS, SHF_ALLOC | SHF_EXECINSTR, TEXT_ADDRESS, text, 0, 0, 16, 0),
        (b".data", SHT_PROGBITS, SHF_ALLOC | SHF_WRITE, DATA_ADDRESS, data, 0, 0, 16, 0),
        (b".rela.text", SHT_RELA, SHF_INFO_LINK, 0, relocations, 4, 1, 4, RELOCATION.size),
        (b".symtab", SHT_SYMTAB, 0, 0, symbols, 5, 1, 4, SYMBOL.size),
        (b".strtab", SHT_STRTAB, 0, 0, symbol_names, 0, 0, 1, 0),
        (b".shstrtab", SHT_STRTAB, 0, 0, section_names, 0, 0, 1, 0),
    ]
    segments_at = HEADER.size
    body, table, offsets = b"", SECTION.pack(*[0] * 10), []
    body_at = segments_at + 2 * SEGMENT.size
    body_at += -body_at % 16
    for name, kind, flags, address, contents, link, info, alignment, entry in sections:
        offsets.append(body_at + len(body))
        name_at = section_names.index(b"\0" + name + b"\0") + 1
        table += SECTION.pack(name_at, kind, flags, address, offsets[-1], len(contents), link, info, alignment, entry)
        body += contents + bytes(-len(contents) % 16)
    segments = SEGMENT.pack(PT_LOAD, offsets[0], TEXT_ADDRESS, TEXT_ADDRESS, len(text), len(text), PF_R | PF_X, 16)
    load_address = TEXT_ADDRESS + len(text)  # initial data lies behind the text and is copied at start
    segments += SEGMENT.pack(PT_LOAD, offsets[1], DATA_ADDRESS, load_address, len(data), len(data), PF_R | PF_W, 16)
    header = HEADER.pack(
        b"\x7fELF\x01\x01\x01" + bytes(9), ET_EXEC, EM_RISCV, 1, TEXT_ADDRESS, segments_at, body_at + len(body), 0,
        HEADER.size, SEGMENT.size, 2, SECTION.size, len(sections) + 1, len(sections),
    )  # fmt: skip
    head = header + segments
    return head.ljust(body_at, b"\0") + body + table


def install(compiler: Path, sfpi_version: Path) -> None:
    """Write the compiler, a shell script (Python takes ten times as long to start), and the kernel it hands out.

    sfpi_version: ttnn's pins of the compiler's release, which the host compares with what --version says.
    """
    pins = dict(line.split("=", 1) for line in sfpi_version.read_text().splitlines() if "=" in line)
    release, build = pins["sfpi_version"].strip("'"), pins["sfpi_build"].strip("'")
    compiler.parent.mkdir(parents=True)
    (compiler.parent / "null_kernel.elf").write_bytes(null_kernel())
    compiler.write_text(COMPILER.format(version=f"riscv-tt-elf-g++ (tenstorrent/sfpi:{release}[{build}]) 15.1.0"))
    compiler.chmod(0o755)


COMPILER = """#!/bin/sh
dependencies=
while [ $# -gt 0 ]; do
    case $1 in
        --version | -dumpversion) echo "{version}"; exit ;;
        -o) output=$2; shift ;;
        -MF) dependencies=$2; shift ;;
    esac
    shift
done
cp "${{0%/*}}/null_kernel.elf" "$output" && echo "$output:" >"${{dependencies:-${{output%.*}}.d}}"
"""
