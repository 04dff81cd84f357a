"""The digest in the log or registry is held against a file by everything that judges it, in the same way."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckpt_tui.checkpoints.validate import LEVELS
from ckpt_tui.cli import main
from ckpt_tui.services import recorded, validity
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.validation_run import validate_all


def write_record(directory: Path, name: str, digest: str, *, registry: bool) -> None:
    status = (directory / name).stat()
    if registry:
        row = {
            "path": name,
            "kind": "other",
            "step": 5,
            "bytes": status.st_size,
            "mtime": status.st_mtime,
            "digest": digest,
        }
        (directory / "registry.json").write_text(json.dumps({"checkpoints": [row]}))
        return
    event = {"v": 1, "event": "checkpoint_saved", "seq": 0, "ts": time.time(), "session": 1, "step": 5, "path": name,
             "bytes": status.st_size, "digest": digest}  # fmt: skip
    (directory / "events.jsonl").write_text(json.dumps(event) + "\n")


@pytest.fixture(params=["safetensors", "legacy", "crc-off"])
def weights(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file without checksums, old enough to be remembered."""
    state = {"w": torch.arange(300.0), "v": torch.ones(7)}
    path = tmp_path / ("m.safetensors" if request.param == "safetensors" else "m.pt")
    if request.param == "safetensors":
        save_file(state, path)
    elif request.param == "legacy":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    else:
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(state, path)
        finally:
            torch.serialization.set_crc32_options(True)
    os.utime(path, (time.time() - 1000,) * 2)
    time.sleep(0.03)
    return path


def sha256(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def flip(path: Path) -> None:
    """Turn over a bit in the first 1.0, and let nothing else show it."""
    status = path.stat()
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"\0\0\x80\x3f") + 2] ^= 4
    path.write_bytes(raw)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("registry", [True, False], ids=["registry", "log"])
def test_list_validate_and_what_restore_and_resume_ask_agree(
    weights: Path, registry: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(weights.parent, weights.name, sha256(weights), registry=registry)
    flip(weights)
    assert validity.check(str(weights)).verdict == "damaged"
    assert read_catalog(str(weights.parent), check="full").entries[0].validity == "damaged"
    assert next(iter(validate_all([str(weights)], LEVELS))).validation.verdict == "damaged"
    assert main(["validate", str(weights)]) == 1
    assert "it is not the file that was saved" in capsys.readouterr().out


def test_without_a_record_it_is_not_checked_and_that_is_remembered(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = validity.check(str(weights))
    assert (first.verdict, first.levels["integrity"]) == ("valid", "not-checked")
    monkeypatch.setattr(validity, "validate_checkpoint", lambda *_, **__: pytest.fail("read again"))
    assert validity.check(str(weights)).levels == first.levels


@pytest.mark.parametrize("is_flipped", [False, True])
def test_a_record_that_comes_later_is_held_against_it_once(weights: Path, is_flipped: bool) -> None:
    digest = sha256(weights)
    if is_flipped:
        flip(weights)
        time.sleep(0.03)
    assert validity.check(str(weights)).verdict == "valid"
    write_record(weights.parent, weights.name, digest, registry=True)
    judged = validity.check(str(weights))
    assert judged.digest == digest
    assert (judged.verdict, judged.levels["integrity"]) == (("damaged", "fail") if is_flipped else ("valid", "pass"))
    assert validity.recall(str(weights)) == judged


def test_the_log_is_read_once_for_all_the_files_of_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"m{number}.safetensors" for number in range(5)]
    lines = []
    for number, name in enumerate(names):
        save_file({"w": torch.ones(4)}, tmp_path / name)
        size = (tmp_path / name).stat().st_size
        event = {"v": 1, "event": "checkpoint_saved", "seq": number, "ts": time.time(), "session": 1, "step": number,
                 "path": name, "bytes": size, "digest": f"crc32:{number}"}  # fmt: skip
        lines += [json.dumps(event), json.dumps({"v": 1, "event": "step", "seq": 0, "ts": 1, "session": 1, "step": 1})]
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n")
    assert [recorded.recorded_facts(str(tmp_path / name)).digest for name in names] == [
        f"crc32:{number}" for number in range(5)
    ]
    import ckpt_tui.events.codec as codec

    monkeypatch.setattr(codec, "decode", lambda line: pytest.fail("read again"))
    assert recorded.recorded_facts(str(tmp_path / names[0])).digest == "crc32:0"
