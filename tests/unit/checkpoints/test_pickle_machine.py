"""Nothing that a pickle asks for is done, and everything that it asks for is bounded."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.pickle_decode import decode_pickle
from ckpt_tui.checkpoints.state_walk import name_tensors
from ckpt_tui.commands.inspect_json import as_json
from ckpt_tui.errors import CkptError
from tests.builders.pickle_routes import payload_routes, text
from tests.builders.torch_files import save_bytes, training_state

_LIMITS = ReadLimits(max_opcodes=200_000, max_nodes=500_000)


@pytest.mark.parametrize("route", list(payload_routes(Path())))
def test_no_route_runs_anything(tmp_path: Path, route: str) -> None:
    marker = tmp_path / "ran"
    decoded = decode_pickle(payload_routes(marker)[route] + b".", "data.pkl", _LIMITS)
    assert [ref.verdict for ref in decoded.globals if ref.name == "os.system"] == ["dangerous"]
    assert not marker.exists()


def test_an_extension_code_is_an_unknown_global() -> None:
    assert decode_pickle(b"\x82\x05)R.", "data.pkl").globals[0].verdict == "unknown"


_LAUGHS = b"]q\x00" + b"".join(b"](" + b"h" + bytes([n]) * 1 + (b"h" + bytes([n])) * 9 + b"eq" + bytes([n + 1])
                                for n in range(60)) + b"."  # fmt: skip
BOMBS = {
    "LONG4 of 2 GB": b"\x8b" + struct.pack("<i", 2**31 - 1) + b".",
    "negative LONG4": b"\x8b" + struct.pack("<i", -1) + b".",
    "BINUNICODE8 of exabytes": b"\x8d" + b"\xff" * 8 + b".",
    "memo at 2**32": b"Nr\xff\xff\xff\xff.",
    "decimal of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "billion laughs": _LAUGHS,
    "deep list": b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep tuple as key": b"}" + b"N" + b"\x85" * 100_000 + b"Ns.",
    "cycle": b"]q\x00h\x00a.",
    "pop of nothing": b"0000.",
    "colliding keys": b"}(" + b"".join(b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"N"
                                        for n in range(1, 30_000)) + b"u.",
    "copies": b"(" + text("a" * 60_000) + b"q\x000" + (b"c_codecs\nencode\nh\x00\x85R0" * 5_000) + b".",
}  # fmt: skip


@pytest.mark.parametrize("bomb", list(BOMBS))
def test_bombs_end_in_a_value_or_an_error(bomb: str) -> None:
    try:
        root = decode_pickle(BOMBS[bomb], "data.pkl", _LIMITS).root
        name_tensors(root, _LIMITS, [])
        json.dumps(as_json(root))
    except CkptError:
        pass


def _decodes_or_says(data: bytes) -> None:
    try:
        decoded = decode_pickle(data, "data.pkl", _LIMITS)
        name_tensors(decoded.root, _LIMITS, [])
        json.dumps(as_json(decoded.root))
    except CkptError:
        pass


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    _decodes_or_says(data)


def _honest_pickle() -> bytes:
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(save_bytes(training_state()))) as archive:
        return archive.read("archive/data.pkl")


@settings(max_examples=300)
@given(st.data())
def test_flipped_bytes(data: st.DataObject) -> None:
    raw = bytearray(_HONEST)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    _decodes_or_says(bytes(raw))


_HONEST = _honest_pickle()


def test_a_dtype_that_cannot_be_a_name_makes_no_tensor() -> None:
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x01tQ"
    for name, is_tensor in (("float6_new", True), ("float8\x1b[2J", False), ("a" * 40, False)):
        call = b"ctorch._utils\n_rebuild_tensor_v3\n(" + storage + b"K\x00K\x01\x85K\x01\x85\x89Nctorch\n"
        root = decode_pickle(call + name.encode() + b"\ntR.", "data.pkl").root
        assert (type(root).__name__ == "TensorRef") == is_tensor
