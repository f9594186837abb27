#!/usr/bin/env -S python3 -IS
"""A null kernel compiler: answers as sfpi's riscv-tt-elf-g++ would, and writes kernels that do nothing.

On the mock no kernel is ever executed, but the host still compiles, links, parses and packs each
one. This script stands where the compiler is looked for and writes the smallest ELF file that the
loader accepts, so that all of it can run on a machine with nothing but Python.
"""

import os
import struct
import sys

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


def version() -> str:
    """What the host wants to read: the sfpi release pinned beside the runtime this script was placed in."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../../tt_metal/sfpi-version")
    with open(path) as file:
        pins = dict(line.strip().split("=", 1) for line in file if "=" in line)
    release, build = pins["sfpi_version"].strip("'"), pins["sfpi_build"].strip("'")
    return f"riscv-tt-elf-g++ (tenstorrent/sfpi:{release}[{build}]) 15.1.0"


def main(arguments: list[str]) -> None:
    if "--version" in arguments or "-dumpversion" in arguments:
        print(version())
        return
    output = arguments[arguments.index("-o") + 1]
    with open(output, "wb") as file:
        file.write(null_kernel())
    if "-c" in arguments or "-MF" in arguments:
        dependencies = arguments[arguments.index("-MF") + 1] if "-MF" in arguments else os.path.splitext(output)[0] + ".d"
        with open(dependencies, "w") as file:
            file.write(f"{output}:\n")


if __name__ == "__main__":
    main(sys.argv[1:])
