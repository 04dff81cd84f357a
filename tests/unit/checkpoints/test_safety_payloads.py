"""Live payloads, by every route that runs code, in every pickle that any format can hold: none runs, each is told.

The payloads are really live: the first test lets Python's own pickle run them.
"""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from ckpt_tui.cli import main
from tests.builders.pickle_routes import text
from tests.builders.shell import wait_for
from tests.builders.torch_files import save_bytes, zip_of


def routes(marker: Path) -> dict[str, bytes]:
    """Pickles that create `marker` when they are loaded, each by another opcode."""
    command = text(f"touch {marker}")
    system = b"cposix\nsystem\n"
    stacked = text("posix") + text("system") + b"\x93"
    popen = text("subprocess") + text("Popen") + b"\x93"
    words = b"(" + text("touch") + text(str(marker)) + b"l"
    return {
        "REDUCE": system + b"(" + command + b"tR.",
        "REDUCE protocol 4": b"\x80\x04" + stacked + command + b"\x85R.",
        "INST": b"(" + command + b"iposix\nsystem\n.",
        "OBJ": b"(" + popen + words + b"o.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n(" + words + b"t\x810csubprocess\nPopen\n" + words + b"\x85R.",
        "NEWOBJ_EX": b"\x80\x04" + popen + b"(" + words + b"t}\x920" + stacked + command + b"\x85R.",
        "BUILD": b"ctypes\nSimpleNamespace\n)R}" + text("x") + system + b"sb0" + stacked + command + b"\x85R.",
        "getattr": b"cbuiltins\ngetattr\n(c__builtin__\n__import__\n(" + text("os") + b"tR" + text("system") + b"tR("
        + command + b"tR.",
        "eval": b"cbuiltins\neval\n(" + text(f"__import__('os').system('touch {marker}')") + b"tR.",
        "map": b"cbuiltins\nlist\n(cbuiltins\nmap\n(" + system + b"(" + command + b"ltRtR.",
        "after the result": b"(" + system + b"(" + command + b"tR0N0}.",
    }  # fmt: skip


ROUTES = list(routes(Path("x")))


@pytest.mark.parametrize("route", ROUTES)
def test_the_payload_is_live(tmp_path: Path, route: str) -> None:
    marker = tmp_path / "ran"
    program = f"import pickle\ntry: x = pickle.loads({routes(marker)[route]!r})\nexcept Exception: pass"
    subprocess.run([sys.executable, "-c", program], timeout=300, check=False, capture_output=True)
    wait_for(marker.exists, "it did nothing")  # some are not waited for


# --- every pickle that a file or a directory can hold


def _legacy(payload: bytes, which: int) -> bytes:
    pieces = [
        pickle.dumps(0x1950A86A20F9469CFC6C, 2),
        pickle.dumps(1001, 2),
        pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2),
        pickle.dumps({"step": 3}, 2),
        pickle.dumps([], 2),
    ]
    pieces[which] = payload
    return b"".join(pieces)


def _zip(records: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _npy(payload: bytes) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"x": 1}], dtype=object), allow_pickle=True)
    whole = buffer.getvalue()
    return whole[: whole.index(pickle.dumps(1, 4)[:2], 60)] + payload


def _script(name: str, payload: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    with zipfile.ZipFile(buffer) as archive:
        records = {entry: archive.read(entry) for entry in archive.namelist()}
    records[next(entry for entry in records if entry.endswith("/" + name))] = payload
    return _zip(records)


FILES: dict[str, Callable[[bytes], bytes]] = {
    "zip": zip_of,
    "zip, second data.pkl": lambda payload: _zip(
        {"a/data.pkl": pickle.dumps({"step": 1}, 2), "a/version": b"3", "b/data.pkl": payload}
    ),
    **{f"legacy, pickle {n}": (lambda payload, n=n: _legacy(payload, n)) for n in range(5)},
    "bare pickle": lambda payload: payload,
    "npy": _npy,
    "npz": lambda payload: _zip({"a.npy": _npy(payload)}),
    "TorchScript data.pkl": lambda payload: _script("data.pkl", payload),
    "TorchScript constants.pkl": lambda payload: _script("constants.pkl", payload),
}


def _write(directory: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)


_WEIGHTS = save({"w": torch.ones(2)})
_STATE = json.dumps({"global_step": 3, "epoch": 0.5, "log_history": [], "max_steps": 9}).encode()


def _hugging_face(bad: str) -> Callable[[Path, bytes], None]:
    def write(directory: Path, payload: bytes) -> None:
        files = {"model.safetensors": _WEIGHTS, "trainer_state.json": _STATE, "optimizer.pt": save_bytes({"state": {}})}
        _write(directory, {**files, bad: payload if bad.endswith(".pkl") else zip_of(payload)})

    return write


DIRECTORIES: dict[str, Callable[[Path, bytes], None]] = {
    "shard": lambda directory, payload: _write(
        directory,
        {
            "pytorch_model.bin.index.json": json.dumps(
                {"metadata": {}, "weight_map": {"w": "pytorch_model-00001-of-00001.bin"}}
            ).encode(),
            "pytorch_model-00001-of-00001.bin": zip_of(payload),
        },
    ),
    **{f"Trainer, {name}": _hugging_face(name) for name in ("training_args.bin", "rng_state.pth", "scheduler.pt")},
    "Accelerate": lambda directory, payload: _write(
        directory,
        {"model.safetensors": _WEIGHTS, "optimizer.bin": save_bytes({"state": {}}), "random_states_0.pkl": payload},
    ),
    "DCP, .metadata": lambda directory, payload: _write(directory, {".metadata": payload, "__0_0.distcp": b""}),
    "DeepSpeed": lambda directory, payload: _write(
        directory, {"latest": b"global_step3", "global_step3/mp_rank_00_model_states.pt": zip_of(payload)}
    ),
}


def _told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = main([*arguments])
    said = capsys.readouterr()
    assert code in (0, 1, 2)
    assert "Traceback" not in said.out + said.err
    return said.out


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("container", [*FILES, *DIRECTORIES])
def test_no_payload_runs_and_each_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], container: str, route: str
) -> None:
    marker = tmp_path / "ran"
    payload = routes(marker)[route]
    path = tmp_path / "x"
    if container in FILES:
        path.write_bytes(FILES[container](payload))
    else:
        path.mkdir()
        DIRECTORIES[container](path, payload)
    for inner in (path, *path.rglob("*")):
        os.utime(inner, (1.7e9, 1.7e9))  # `validate` watches what changed just now, to see whether it grows
    inspected = json.loads(_told(capsys, "inspect", str(path), "--json", "--stats"))
    validated = json.loads(_told(capsys, "validate", str(path), "--json"))
    _told(capsys, "diff", str(path), str(path), "--json")
    assert not marker.exists()
    verdict = validated["data"]["results"][0]["verdict"] if validated["data"] else ""
    if inspected["ok"]:
        named = {ref["name"] for ref in inspected["data"]["globals"] if ref["verdict"] == "dangerous"}
        assert inspected["data"]["safety"] == "dangerous"
        assert named & {"posix.system", "subprocess.Popen", "builtins.eval", "builtins.getattr", "builtins.map"}
        assert verdict == "unsafe"
    else:
        # It does not open at all: then the reason says what it would have called.
        assert verdict in ("damaged", "unsafe", "not-a-checkpoint", "unreadable")
        assert "calls for" in json.dumps(inspected["errors"])


INSIDE_BYTES: dict[str, Callable[[bytes], bytes]] = {
    "pickle in bytes of a zip": lambda payload: save_bytes({"net": payload, "step": 1}),
    "pickle in bytes of a pickle": lambda payload: pickle.dumps({"net": payload, "step": 1}),
    "zip in bytes of a pickle": lambda payload: pickle.dumps({"w": zip_of(payload)}),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("container", list(INSIDE_BYTES))
def test_a_payload_in_bytes_is_told_and_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], container: str, route: str
) -> None:
    marker, path = tmp_path / "ran", tmp_path / "x"
    path.write_bytes(INSIDE_BYTES[container](routes(marker)[route]))
    data = json.loads(_told(capsys, "inspect", str(path), "--json"))["data"]
    assert not marker.exists()
    # Loading the outer file gives bytes: it does not run what is in them.
    assert data["safety"] == "unknown"
    odd = [ref for ref in data["globals"] if ref["verdict"] != "known"]
    assert odd
    assert all("inside bytes" in ref["reason"] for ref in odd if ref["name"] in ("posix.system", "subprocess.Popen"))
    if container.endswith("of a zip"):
        assert (data["weights_only"]["loads"], data["weights_only"]["refuses"]) == (True, [])
        assert torch.load(path, weights_only=True)["step"] == 1


def test_bytes_that_are_no_pickle_raise_no_alarm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.pt"
    words = {
        "a": b"cos\nlettuce",
        "b": base64.b64encode(b"posix system"),
        "c": bytes(range(256)),
        "text": "posix.system",
    }
    path.write_bytes(save_bytes({"step": 1, **words}))
    assert json.loads(_told(capsys, "inspect", str(path), "--json"))["data"]["safety"] == "safe"
