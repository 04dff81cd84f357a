"""What is safe is so in every pickle of a checkpoint: the worst verdict that a name has anywhere is its verdict."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from ckpt_tui.checkpoints.readers.torch_legacy import MAGIC_NUMBER
from ckpt_tui.checkpoints.registry import open_checkpoint
from tests.builders.pickle_routes import text
from tests.builders.torch_files import zip_of

_GETATTR = b"cbuiltins\ngetattr\n"
_HARMLESS = b"\x80\x02" + _GETATTR + b"(czoneinfo\nZoneInfo\n" + text("_unpickle") + b"tR0}."
_HARMFUL = b"\x80\x02" + _GETATTR + b"(}" + text("x") + b"tR0}."
_UNDECODABLE = b"\x80\x02}Nb\x97\x01."
_STATE = json.dumps({"global_step": 3, "epoch": 0.5, "log_history": [], "max_steps": 9}).encode()


def _legacy(last: bytes, state: bytes = b"\x80\x02}.") -> bytes:
    header = [pickle.dumps(value, 2) for value in (MAGIC_NUMBER, 1001, {"protocol_version": 1001})]
    return b"".join([*header, state, last])


def _checkpoint(directory: Path, **files: bytes) -> Path:
    (directory / "model.safetensors").write_bytes(save({"w": torch.ones(2)}))
    (directory / "trainer_state.json").write_bytes(_STATE)
    for name, payload in files.items():
        (directory / f"{name}.pt").write_bytes(zip_of(payload))
    return directory


def test_one_file_of_a_directory_does_not_speak_for_another(tmp_path: Path) -> None:
    assert open_checkpoint(_checkpoint(tmp_path, optimizer=_HARMLESS)).safety == "safe"
    for names in (("optimizer", "scheduler"), ("scheduler", "optimizer")):
        checkpoint = open_checkpoint(_checkpoint(tmp_path, **dict(zip(names, (_HARMLESS, _HARMFUL), strict=True))))
        assert checkpoint.safety == "dangerous"
        assert [ref.name for ref in checkpoint.globals].count("builtins.getattr") == 1


def test_one_pickle_of_an_archive_does_not_speak_for_another(tmp_path: Path) -> None:
    for first, second in ((_HARMLESS, _HARMFUL), (_HARMFUL, _HARMLESS)):
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
            archive.writestr("archive/data.pkl", first)
            archive.writestr("archive/version", b"3\n")
            archive.writestr("archive/DATA.pkl", second)
        assert open_checkpoint(tmp_path / "x.pt").safety == "dangerous"


def test_one_pickle_of_a_legacy_file_does_not_speak_for_another(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(_legacy(_HARMFUL[:-2] + b"].", _HARMLESS))
    assert open_checkpoint(tmp_path / "x.pt").safety == "dangerous"


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6])
def test_a_payload_in_files_in_files_is_dangerous(tmp_path: Path, depth: int) -> None:
    """torch's _load_from_bytes opens each of them in turn, and really gets there."""
    marker = tmp_path / "ran"
    payload = b"cposix\nsystem\n(" + text(f"touch {marker}") + b"tR"
    for _ in range(depth):
        inner = _legacy(b"\x80\x02].", b"\x80\x02" + payload + b".")
        payload = b"ctorch.storage\n_load_from_bytes\n(B" + struct.pack("<I", len(inner)) + inner + b"tR"
    (tmp_path / "x.pkl").write_bytes(b"\x80\x03" + payload + b".")
    assert open_checkpoint(tmp_path / "x.pkl").safety == "dangerous"
    assert not marker.exists()
    pickle.loads((tmp_path / "x.pkl").read_bytes())
    assert marker.exists(), "else this proves nothing"


@pytest.mark.parametrize("name", ["optimizer", "scheduler", "scaler"])
def test_a_part_that_does_not_decode_is_not_safe(tmp_path: Path, name: str) -> None:
    checkpoint = open_checkpoint(_checkpoint(tmp_path, **{name: _UNDECODABLE}))
    assert checkpoint.safety == "unknown"
    assert [ref.name for ref in checkpoint.globals if ref.verdict == "unknown"] == [f"{name}.pt"]


def test_storage_keys_that_do_not_decode_are_not_safe(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(_legacy(_UNDECODABLE))
    assert open_checkpoint(tmp_path / "x.pt").safety == "unknown"


@pytest.mark.parametrize("odd", [b"\x88Nb0", b"L0x10L\n0", b"I0x10\n0"])
def test_what_pickle_takes_is_read_on(tmp_path: Path, odd: bytes) -> None:
    """A state of None does nothing, whatever it is given to; and numbers may be written as C does."""
    marker = tmp_path / "ran"
    payload = b"\x80\x02" + odd + b"cposix\nsystem\n(" + text(f"touch {marker}") + b"tR0}."
    (tmp_path / "x.pkl").write_bytes(payload)
    assert open_checkpoint(tmp_path / "x.pkl").safety == "dangerous"
    pickle.loads(payload)
    assert marker.exists(), "else this proves nothing"


@pytest.mark.parametrize("decoy", ["legacy", "pickle"])
def test_a_file_that_is_a_tar_archive_too_is_dangerous(tmp_path: Path, decoy: str) -> None:
    """torch.load tries tar before all but zip: the name of the first member is the beginning of the decoy."""
    marker = tmp_path / "ran"
    start = pickle.dumps(MAGIC_NUMBER, 2) + pickle.dumps(1001, 2) if decoy == "legacy" else b""
    name = start + b"\x80\x02X" + struct.pack("<I", 512 - len(start) - 7)
    rest = b"." + b"\x80\x02}." + pickle.dumps([], 2) if decoy == "legacy" else b"0}."
    payload = b"\x80\x02cposix\nsystem\n(" + text(f"touch {marker}") + b"tR0}."
    zero, empty = pickle.dumps(0, 2), pickle.dumps([], 2)
    whole = b""
    for member, data in ((name, rest), (b"storages", zero + empty), (b"tensors", zero), (b"pickle", payload)):
        header = bytearray(member.ljust(512, b"\0"))
        header[100:156] = b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % len(data) + b"0" * 11 + b"\0" + b" " * 8
        header[156:157], header[257:265] = b"0", b"ustar\x0000"
        header[148:156] = b"%06o\0 " % sum(header)
        whole += bytes(header) + data + b"\0" * (-len(data) % 512)
    path = tmp_path / "x.pt"
    path.write_bytes(whole + b"\0" * 1024)
    checkpoint = open_checkpoint(path)
    assert checkpoint.format != "torch-tar", "else this proves nothing"
    assert checkpoint.safety == "dangerous"
    torch.load(path, weights_only=False)
    assert marker.exists(), "else this proves nothing"
