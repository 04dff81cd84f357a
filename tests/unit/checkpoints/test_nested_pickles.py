"""What pickles name that lie in bytes of another one is listed, with its place; nothing of it is run."""

from __future__ import annotations

import io
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpt_tui.checkpoints.model import Checkpoint, GlobalRef
from ckpt_tui.checkpoints.registry import open_checkpoint
from tests.builders.legacy_files import legacy_bytes
from tests.builders.pickle_routes import payload_routes
from tests.builders.torch_files import save_bytes, zip_of

_PAYLOAD = b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00idtR."


def _open(tmp_path: Path, state: Any, **how: Any) -> Checkpoint:
    path = tmp_path / "x.pt"
    torch.save(state, path, **how)
    return open_checkpoint(path)


def _named(checkpoint: Checkpoint, name: str = "os.system") -> list[GlobalRef]:
    return [ref for ref in checkpoint.globals if ref.name == name]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "inner",
    [_PAYLOAD, b"cos\nsystem\n(S'id'\ntR.", zip_of(_PAYLOAD), pickle.dumps({"deeper": [_PAYLOAD]}),
     pickle.dumps({"large": [_PAYLOAD, bytes(100_000)]}), save_bytes({"in": _PAYLOAD})],
    ids=["pickle", "no header", "torch zip", "pickle in a pickle", "large", "pickle in a torch zip"],
)  # fmt: skip
def test_a_payload_that_loading_does_not_reach(tmp_path: Path, protocol: int, inner: bytes) -> None:
    checkpoint = _open(tmp_path, {"model": torch.ones(2), "extra": {"blob": inner}}, pickle_protocol=protocol)
    (ref,) = _named(checkpoint)
    assert ref.verdict == "unknown"
    assert "runs commands" in ref.reason
    assert "does not open" in ref.reason
    assert ref.where.endswith("inside bytes at extra.blob")
    assert checkpoint.safety == "unknown"


@pytest.mark.parametrize("save", [legacy_bytes, lambda state: pickle.dumps(state, 4)], ids=["legacy", "pickle"])
@pytest.mark.parametrize("size", [10, 50_000])
def test_in_the_other_formats_and_in_bytes_that_stay_in_the_file(tmp_path: Path, save: Any, size: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(save({"blob": _PAYLOAD[:-1] + b"0" + pickle.dumps(bytes(size), 4)[2:]}))
    (ref,) = _named(open_checkpoint(path))
    assert ref.where.endswith("inside bytes at blob")
    path.write_bytes(
        save({"blob": zip_of(_PAYLOAD) if size < 100 else zip_of(_PAYLOAD[:-1] + b"0N" + b"0N" * size + b".")})
    )
    assert len(_named(open_checkpoint(path))) == 1


def test_a_legacy_file_in_bytes(tmp_path: Path) -> None:
    inner = legacy_bytes({"w": torch.ones(2)})
    at = inner.index(b".", 15) + 1
    checkpoint = _open(tmp_path, [inner[:at] + _PAYLOAD[:-1] + b"0" + inner[at:]])
    assert [ref.verdict for ref in _named(checkpoint)] == ["unknown"]


def test_bytes_that_unknown_code_may_open_count_as_reached(tmp_path: Path) -> None:
    """skorch keeps its modules as bytes in the state of its network, and opens them when that is loaded."""
    blob = b"B" + len(_PAYLOAD).to_bytes(4, "little") + _PAYLOAD
    for outer in (b"\x80\x03cskorch.net\nNeuralNet\n)\x81}X\x01\x00\x00\x00b" + blob + b"sb.",
                  b"\x80\x03cmine\nopen\n" + blob + b"\x85R."):  # fmt: skip
        path = tmp_path / "net.pkl"
        path.write_bytes(outer)
        checkpoint = open_checkpoint(path)
        (ref,) = _named(checkpoint)
        assert ref.verdict == "dangerous"
        assert "may open" in ref.reason
        assert checkpoint.safety == "dangerous"


def test_honest_bytes_are_safe(tmp_path: Path) -> None:
    state = {
        "python": pickle.dumps(random.getstate()), "module": save_bytes(torch.nn.Linear(2, 2).state_dict()),
        "legacy": legacy_bytes({"w": torch.ones(2)}), "noise": b"\x80" + bytes(300), "text": b"count\n.",
        "zip": b"PK\x03\x04", "token": [b"cat", b"(", b"car."],
    }  # fmt: skip
    checkpoint = _open(tmp_path, state)
    assert checkpoint.safety == "safe"
    assert checkpoint.findings == []
    assert any(ref.where.endswith("inside bytes at module") or ref.name for ref in checkpoint.globals)


@pytest.mark.parametrize("route", list(payload_routes(Path())))
def test_nothing_of_it_is_run(tmp_path: Path, route: str) -> None:
    marker = tmp_path / "ran"
    checkpoint = _open(tmp_path, {"blob": b"\x80\x04" + payload_routes(marker)[route] + b"."})
    assert [ref.verdict for ref in _named(checkpoint)] == ["unknown"]
    assert not marker.exists()


def test_bytes_in_bytes_end(tmp_path: Path) -> None:
    """Three deep are looked at, a thousand cost nothing more."""
    inner = _PAYLOAD
    for _ in range(400):
        inner = pickle.dumps([inner], 3)
    assert _named(_open(tmp_path, {"blob": inner})) == []
    deep = legacy_bytes(None)
    for _ in range(100):
        deep = legacy_bytes([deep], 4)
    path = tmp_path / "deep.pt"
    path.write_bytes(deep)
    assert open_checkpoint(path).format == "torch-legacy"


def test_a_hundred_thousand_of_them_are_not_all_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    stream = io.BytesIO(b"")
    stream.write(b"\x80\x03](" + b"C\x05\x80\x02N0." * 30_000 + b"e.")
    path.write_bytes(stream.getvalue())
    checkpoint = open_checkpoint(path)
    assert [ref.name for ref in checkpoint.globals] == ["bytes that look like pickles"]
    assert checkpoint.safety == "unknown"
