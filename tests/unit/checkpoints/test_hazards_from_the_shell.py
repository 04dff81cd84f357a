"""Files made to harm, through the whole command: within a second of CPU, 200 MB, and with an answer."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.cli import main
from tests.builders.hostile_pickles import HAZARDS, tensor
from tests.builders.pace import cpu_time
from tests.builders.torch_files import zip_of

_MAX_CPU_S = 1.0
_MAX_MB = 200
# The process says its own peak: what wait4 gives starts at the peak of the process that forked it, here of pytest.
_PROGRAM = """
import sys
from ckpt_tui.cli import main
code = main(sys.argv[1:])
try:
    sys.stderr.write(open("/proc/self/status").read())
except FileNotFoundError:  # only Linux has it
    sys.stderr.write("VmHWM: 0 kB")
sys.exit(code)
"""


def _of_others() -> float:
    """The CPU time of the processes that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _file(tmp_path: Path, pickled: bytes) -> Path:
    path = tmp_path / "x.pt"
    path.write_bytes(zip_of(pickled))
    return path


@pytest.mark.parametrize("hazard", list(HAZARDS))
def test_a_hazard_costs_no_more_than_a_second_and_200_mb(tmp_path: Path, hazard: str) -> None:
    path = _file(tmp_path, HAZARDS[hazard])
    for option in ("--all", "--json"):
        took_s = []
        while not took_s or (took_s[-1] > _MAX_CPU_S and len(took_s) < 5):  # a core that is shared may be half as fast
            with (
                open(tmp_path / "out", "w+b") as out,
                open(tmp_path / "err", "w+b") as err,
                cpu_time(_of_others) as took,
            ):
                process = subprocess.run(
                    [sys.executable, "-c", _PROGRAM, "inspect", str(path), option], stdout=out, stderr=err, check=False
                )
            took_s.append(took.seconds)
        said, complaint = (tmp_path / "out").read_bytes(), (tmp_path / "err").read_text()
        assert process.returncode in (0, 2), complaint
        assert "Traceback" not in complaint
        assert min(took_s) <= _MAX_CPU_S
        peak = re.search(r"VmHWM:\s+(\d+) kB", complaint)
        assert peak is not None
        assert int(peak[1]) / 1024 <= _MAX_MB
        if option == "--json":
            assert json.loads(said)["ok"] == (process.returncode == 0)


@pytest.mark.parametrize(
    "shape", [((1 << 62,) * 64, (1,) * 64), ((1,) * 65, (1,) * 65), ((-1,), (1,)), ((2, 2), (1,)), ((1 << 63,), (1,))]
)
def test_a_shape_that_no_tensor_can_have_is_an_error(
    tmp_path: Path, shape: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    checkpoint = open_checkpoint(_file(tmp_path, tensor(*shape) + b"."))
    assert checkpoint.tensors == []
    assert [(finding.code, finding.severity) for finding in checkpoint.findings] == [("malformed-tensor", "error")]


def _inspect(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["inspect", *arguments]) == 0
    return capsys.readouterr().out


def test_a_deep_state_is_shown_to_where_it_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _file(tmp_path, b"]" * 50_000 + b"K\x07a" + b"a" * 49_999 + b".")
    assert "nested deeper than 10,000" in _inspect(capsys, str(path))
    answer = json.loads(_inspect(capsys, str(path), "--json"))
    assert [finding["code"] for finding in answer["data"]["findings"]] == ["too-deep"]
    inner, depth = answer["data"]["state"], 0
    while isinstance(inner, list):
        inner, depth = inner[0], depth + 1
    assert inner == {"cut": "too deep"}
    assert depth > 50


def test_a_cyclic_state_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _file(tmp_path, HAZARDS["cycle of dicts"])
    assert "x.pt" in _inspect(capsys, str(path), "--all")
    state = json.loads(_inspect(capsys, str(path), "--json"))["data"]["state"]
    assert state == {"me": {"cycle": True}, "again": [{"cycle": True}, {"cycle": True}]}
