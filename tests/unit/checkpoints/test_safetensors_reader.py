"""safetensors: the same facts as its own library gives, and every cause of damage said by name."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.errors import CkptError
from tests.builders.pace import cpu_time
from tests.builders.pickle_routes import text
from tests.builders.safetensors_files import entry, safetensors_bytes

_TWICE = b'{"layer.w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"layer.w":{}}'

# cause -> (file, what the message must say); nothing can be decoded
REFUSED = {
    "claimed header beyond the file": (safetensors_bytes({}, claimed=5_000), "claims 5,000 bytes, the file has 10"),
    "header is no JSON": (safetensors_bytes(b"{oops}  "), "its header is no JSON"),
    "header is no UTF-8": (safetensors_bytes(b'{"\xff":1}'), "its header is no JSON"),
    "header nested without end": (safetensors_bytes(b'{"a":' * 100_000), "its header is no JSON"),
    "number of a million digits": (safetensors_bytes(b'{"a":' + b"9" * 1_000_000 + b"}"), "its header is no JSON"),
    "a name twice": (safetensors_bytes(_TWICE, b"x"), "its header names layer.w twice"),
    "a key twice in an entry": (safetensors_bytes(b'{"w":{"dtype":"U8","dtype":"I8"}}'), "names dtype twice"),
    "entry is no object": (safetensors_bytes({"layer.w": 5}), "tensor layer.w is not described by an object"),
    "unknown dtype": (
        safetensors_bytes({"layer.w": entry(0, 1, dtype="F7")}, b"x"), "layer.w has the unknown dtype F7",
    ),
    "dtype is no text": (safetensors_bytes({"layer.w": entry(0, 1, dtype=[1])}, b"x"), "layer.w has the unknown dtype"),
    "shape is missing": (safetensors_bytes({"layer.w": {"dtype": "U8"}}), "layer.w has no sound shape"),
    "negative extent": (safetensors_bytes({"layer.w": entry(0, 1, [-1])}, b"x"), "layer.w has no sound shape"),
    "fractional extent": (safetensors_bytes({"layer.w": entry(0, 1, [1.0])}, b"x"), "layer.w has no sound shape"),
    "true as an extent": (safetensors_bytes({"layer.w": entry(0, 1, [True])}, b"x"), "layer.w has no sound shape"),
    "65 dimensions": (safetensors_bytes({"layer.w": entry(0, 1, [1] * 65)}, b"x"), "layer.w has no sound shape"),
    "one offset": (
        safetensors_bytes({"layer.w": {"dtype": "U8", "shape": [1], "data_offsets": [0]}}),
        "layer.w has no sound data_offsets",
    ),
    "offsets run backwards": (
        safetensors_bytes({"layer.w": entry(9, 4, [5])}), "layer.w: its offsets run backwards, from 9",
    ),
    "shape larger than its bytes": (
        safetensors_bytes({"layer.w": entry(0, 4, [3, 2], "F32")}, b"abcd"),
        "layer.w: its shape needs 24 bytes, it has 4",
    ),
    "shape whose product overflows": (
        safetensors_bytes({"layer.w": entry(0, 1, [1 << 62] * 64)}, b"x"),
        "layer.w: its shape needs more than 2^63 bytes, it has 1",
    ),
}  # fmt: skip

# cause -> (file, code of the finding, the tensor it names, what it says); the rest is still shown
FOUND = {
    "data cut short": (
        safetensors_bytes({"a": entry(0, 4), "layer.w": entry(4, 9)}, b"abcdef"),
        "tensor-outside", "layer.w", "it is cut short",
    ),
    "overlap": (
        safetensors_bytes({"a": entry(0, 4), "layer.w": entry(2, 6)}, b"abcdef"),
        "overlapping-tensors", "layer.w", "overlap those of a",
    ),
    "gap": (
        safetensors_bytes({"a": entry(0, 2), "layer.w": entry(4, 6)}, b"abcdef"),
        "gap", "layer.w", "2 bytes before it belong to nothing",
    ),
    "data behind the last": (
        safetensors_bytes({"a": entry(0, 4)}, b"abcdef"), "trailing-data", "end", "2 bytes follow the last tensor",
    ),
}  # fmt: skip


def _write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("cause", list(REFUSED))
def test_what_cannot_be_decoded_is_said_by_name(tmp_path: Path, cause: str) -> None:
    data, said = REFUSED[cause]
    with pytest.raises(CkptError) as caught:
        open_checkpoint(_write(tmp_path, data))
    assert caught.value.title == "Damaged checkpoint"
    assert said in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("cause", list(FOUND))
def test_damage_that_leaves_the_rest_is_a_finding(tmp_path: Path, cause: str) -> None:
    data, code, where, said = FOUND[cause]
    checkpoint = open_checkpoint(_write(tmp_path, data))
    assert [(finding.code, finding.where, finding.severity) for finding in checkpoint.findings] == [
        (code, where, "error")
    ]
    assert said in checkpoint.findings[0].message
    assert checkpoint.tensors[0].name == "a"


def test_a_header_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = _write(tmp_path, safetensors_bytes(b"{" + b" " * 5_000 + b"}"))
    with pytest.raises(CkptError) as caught:
        open_checkpoint(path, ReadLimits(max_json_bytes=1_000))
    assert caught.value.title == "Not readable"
    assert "up to 1.0 kB" in caught.value.message


def test_a_name_twice_among_many_is_found_at_once(tmp_path: Path) -> None:
    names = [f"n{i}" for i in range(100_000)]
    path = _write(tmp_path, safetensors_bytes(b"{" + b",".join(f'"{n}":0'.encode() for n in [*names, "n99999"]) + b"}"))
    with cpu_time() as took, pytest.raises(CkptError, match="names n99999 twice"):
        open_checkpoint(path)
    assert took.seconds < 5  # comparing each with each would take minutes


def test_tensors_and_metadata_are_what_the_library_says(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {
        "w": torch.ones(3, 4), "half": torch.ones(2, dtype=torch.bfloat16), "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 3), "fp8": torch.ones(4).to(torch.float8_e4m3fn), "flag": torch.tensor([True]),
    }  # fmt: skip
    save_file(tensors, path, metadata={"format": "pt", "step": "7"})
    checkpoint = open_checkpoint(path)
    assert checkpoint.findings == []
    assert checkpoint.metadata == {"format": "pt", "step": "7"}
    ours = {tensor.name: tensor for tensor in checkpoint.tensors}
    with safe_open(path, "pt") as file:
        assert set(ours) == set(file.keys())
        for name in file.keys():  # noqa: SIM118 - not a dict
            truth = file.get_tensor(name)
            assert (ours[name].shape, f"torch.{ours[name].dtype}") == (tuple(truth.shape), str(truth.dtype))
            assert ours[name].stride == truth.stride() or not truth.numel()
            storage = checkpoint.storages[ours[name].storage]
            assert storage.offset is not None
            raw = path.read_bytes()[storage.offset : storage.offset + storage.size_bytes]
            assert raw == bytes(truth.contiguous().view(-1).view(torch.uint8).numpy())


def _as_pickle(payload: bytes) -> bytes:
    """safetensors that is a pickle too: its length is BINUNICODE with one, and short texts lead through the header."""
    data = b"N" * 300 + payload
    head = b'{"__metadata__":{"a":"'
    last = b'"},"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (len(data), len(data))
    for text_bytes in range(40, 200):
        num_bytes = ord("X") + 256 * text_bytes
        fill = b"x" * (text_bytes - 3 - len(head))
        room = num_bytes - len(head + fill + last)
        first = (room - 10) % 128 - 2  # the last one begins ten bytes before the string ends
        if 0x20 <= first < 0x7F:
            chain = b"U" + bytes([first]) + b"y" * first + (b"U\x7e" + b"y" * 126) * (room // 128 + 1)
            return num_bytes.to_bytes(8, "little") + head + fill + chain[:room] + last + data
    raise AssertionError("no length fits")


def test_one_that_is_a_pickle_too_is_judged_as_both(tmp_path: Path) -> None:
    """Under the name x.pt, torch.load without weights_only takes it for a pickle, and runs it."""
    marker = tmp_path / "ran"
    path = tmp_path / "x.safetensors"
    path.write_bytes(_as_pickle(b"cos\nsystem\n" + text(f"touch {marker}") + b"\x85R."))
    with safe_open(path, "pt") as file:
        assert list(file.keys()) == ["w"]
    checkpoint = open_checkpoint(path)
    assert not marker.exists()
    assert [tensor.name for tensor in checkpoint.tensors] == ["w"]
    assert checkpoint.safety == "dangerous"
    pickle.loads(path.read_bytes())
    assert marker.exists(), "else this proves nothing"


def test_a_long_pickle_that_hides_in_one_is_not_safe(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(_as_pickle(b"N0" * 200_000 + b"cos\nsystem\n" + text("id") + b"\x85R."))
    assert open_checkpoint(path).safety == "unknown"
