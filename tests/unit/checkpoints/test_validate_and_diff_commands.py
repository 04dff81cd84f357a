"""`ckpt-tui validate` and `ckpt-tui diff` as a person and a script see them."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ckpt_tui.cli import main
from ckpt_tui.commands import diff as diff_command
from ckpt_tui.commands import validate as validate_command
from ckpt_tui.output import Style


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    torch.save({"a": torch.ones(100), "b": torch.zeros(3)}, directory / "latest.pt")
    torch.save({"a": torch.ones(100) * 2, "b": torch.zeros(3)}, directory / "rolling_step_000005.pt")
    return directory


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code = main([*map(str, arguments), "--json"])
    out = capsys.readouterr().out
    return code, json.loads(out)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_json_carries_what_is_promised(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = as_json(capsys, "validate", run_dir / "latest.pt")
    assert (code, answer["schema"], answer["ok"], answer["errors"]) == (0, "ckpt-tui/validate/1", True, [])
    (result,) = answer["data"]["results"]
    assert result["verdict"] == "valid"
    assert result["levels"] == {
        "structure": "pass", "integrity": "pass", "numbers": "pass", "resume": "not-applicable",
    }  # fmt: skip
    assert {"path", "findings", "bytes_checked", "seconds"} <= set(result)


def test_only_an_exact_resume_does_not_apply_where_another_works(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(weights.parameters(), lr=0.1).state_dict()
    torch.save({"model": weights.state_dict(), "optimizer": optimizer, "step": 5}, run_dir / "latest.pt")
    assert main(["validate", str(run_dir / "latest.pt")]) == 0
    shown = capsys.readouterr().out
    assert "does not apply: an exact resume" in shown
    assert "it can be resumed from, but not exactly" in shown
    assert main(["validate", str(run_dir / "rolling_step_000005.pt")]) == 0
    assert "does not apply: resume" in capsys.readouterr().out


def test_exit_codes(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = run_dir / "latest.pt", run_dir / "rolling_step_000005.pt"
    assert main(["validate", str(good)]) == 0
    flip(bad, bad.read_bytes().index(b"\0\0\0@\0\0\0@"))
    assert main(["validate", str(bad)]) == 1
    assert main(["validate", str(good), str(bad)]) == 1
    assert main(["validate", str(good), str(run_dir / "none.pt")]) == 2
    captured = capsys.readouterr()
    assert "error: Not found: there is nothing at" in captured.err
    assert "none.pt" not in captured.out.split("checkpoints:")[0]
    code, answer = as_json(capsys, "validate", bad)
    (finding,) = answer["data"]["results"][0]["findings"]
    assert (code, answer["ok"]) == (1, False)
    assert set(finding) == {"code", "severity", "level", "where", "message", "hint"}
    assert (finding["code"], finding["severity"]) == ("checksum", "error")


def test_a_directory_stands_for_every_checkpoint_in_it(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_dir / "registry.json").write_text("{}")
    (run_dir / "events.jsonl").write_text("")
    (run_dir / ".tmp_rolling_step_000010.pt").write_bytes(b"half")
    (run_dir / "notes.txt").write_text("x")
    (run_dir / "epoch_00001.pt").write_bytes(bytes(5000))  # a hole is a checkpoint by its name
    os.link(run_dir / "latest.pt", run_dir / "best_model.pt")
    code, answer = as_json(capsys, "validate", run_dir)
    assert [(Path(r["path"]).name, r["verdict"]) for r in answer["data"]["results"]] == [
        ("best_model.pt", "valid"), ("epoch_00001.pt", "damaged"), ("latest.pt", "valid"),
        ("rolling_step_000005.pt", "valid"),
    ]  # fmt: skip
    assert code == 1
    # Two names of the same bytes are read once.
    assert [r["bytes_checked"] > 0 for r in answer["data"]["results"]] == [True, False, False, True]


def test_a_directory_without_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(tmp_path)]) == 2
    assert "No checkpoints" in capsys.readouterr().err


def test_level_goes_as_far_as_it_says(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels = {}
    for level in ("structure", "integrity", "numbers"):
        answer = as_json(capsys, "validate", run_dir / "latest.pt", "--level", level)[1]
        levels[level] = [n for n, word in answer["data"]["results"][0]["levels"].items() if word == "pass"]
    assert levels == {
        "structure": ["structure"],
        "integrity": ["structure", "integrity"],
        "numbers": ["structure", "integrity", "numbers"],
    }


def test_the_runs_records_make_safetensors_checkable(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_dir / "best_model.safetensors"
    save_file({"a": torch.ones(100)}, path)
    event = {
        "v": 1, "event": "checkpoint_saved", "seq": 1, "ts": path.stat().st_mtime, "session": 1, "step": 5,
        "path": path.name, "bytes": path.stat().st_size, "digest": f"crc32:{zlib.crc32(path.read_bytes()):08x}",
    }  # fmt: skip
    (run_dir / "events.jsonl").write_text(json.dumps(event) + "\n")
    answer = as_json(capsys, "validate", path)[1]
    assert answer["data"]["results"][0]["levels"]["integrity"] == "pass"
    flip(path, path.stat().st_size - 2)
    code, answer = as_json(capsys, "validate", path)
    assert (code, answer["data"]["results"][0]["verdict"]) == (1, "damaged")


def test_the_result_is_remembered(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ckpt_tui.services import validity

    remembered: list[tuple[str, str]] = []
    monkeypatch.setattr(validity, "remember", lambda v: remembered.append((v.path, v.verdict)))
    main(["validate", str(run_dir)])
    assert remembered == [(str(run_dir / n), "valid") for n in ("latest.pt", "rolling_step_000005.pt")]


@pytest.mark.parametrize("width", [40, 80])
def test_text_fits_the_terminal_whatever_the_file_is_called(width: int, tmp_path: Path) -> None:
    from ckpt_tui.checkpoints.validate import validate_checkpoint
    from ckpt_tui.text import cell_width

    results = []
    for name in ("x" * 150 + ".pt", "\x1b]52;c;aGVsbG8=\x07[bold].pt"):
        path = tmp_path / name
        with open(path, "wb") as file:
            torch.save({"a" * 300: torch.full((3,), float("nan"))}, file)
        results.append(validate_checkpoint(str(path)))
    lines = list(validate_command._lines(results, Style(width=width)))
    assert all("\x1b" not in line and "\x07" not in line for line in lines)
    assert max(map(cell_width, lines)) <= width
    assert lines[0].startswith("✖ nonfinite")


def test_diff_exit_codes(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = str(run_dir / "latest.pt"), str(run_dir / "rolling_step_000005.pt")
    assert main(["diff", a, a]) == 0
    assert "no difference" in capsys.readouterr().out
    assert main(["diff", a, b]) == 1
    assert main(["diff", a, str(run_dir / "none.pt")]) == 2
    assert main(["diff", a]) == 2


def test_diff_json(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = as_json(capsys, "diff", run_dir / "latest.pt", run_dir / "rolling_step_000005.pt")
    assert (code, answer["schema"]) == (1, "ckpt-tui/diff/1")
    tensors = {t["name"]: t for t in answer["data"]["tensors"]}
    assert (tensors["a"]["change"], tensors["a"]["relative_l2"], tensors["a"]["cosine"]) == ("value", 1.0, 1.0)
    assert tensors["b"]["change"] == "same"
    assert answer["data"]["hyperparameters"] == answer["data"]["other"] == []
    answer = as_json(capsys, "diff", run_dir / "latest.pt", run_dir / "rolling_step_000005.pt", "--no-values")[1]
    assert {t["change"] for t in answer["data"]["tensors"]} == {"unknown", "same"}


def test_diff_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for step in (1, 2):
        path = tmp_path / f"rolling_step_{step:06d}.pt"
        args = {"lr": step * 1e-3, "seed": step, "\x1b[2J": step}
        weights = {f"w{i}": torch.full((4,), float(step + i)) for i in range(30)}
        torch.save({"step": step, "model": weights, "args": args}, path)
        paths.append(str(path))
    assert main(["diff", *paths]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    for words in (
        "settings: 3 differences", "breaks exactness", "changes the course", "not known", "tensors: 30 changed",
        "and 10 more of model that changed less: --all", "other state: 1 difference",
    ):  # fmt: skip
        assert words in out
    assert out.index("model.w0 ") < out.index("model.w1 ")
    assert main(["diff", *paths, "--all"]) == 1
    assert "model.w29" in capsys.readouterr().out
    assert diff_command.EXAMPLES


def test_tensors_that_only_one_side_has_are_not_said_to_have_changed_less(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({f"a.w{i}": torch.ones(2) for i in range(30)}, tmp_path / "a.pt")
    torch.save({f"b.w{i}": torch.ones(2) for i in range(30)}, tmp_path / "b.pt")
    assert main(["diff", str(tmp_path / "a.pt"), str(tmp_path / "b.pt")]) == 1
    out = capsys.readouterr().out
    assert " more of " in out
    assert "changed less" not in out
    assert "the whole model -" not in out


def test_other_state_of_one_side_is_not_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    torch.save({"model": {"w": torch.ones(2)}, "x": "y"}, tmp_path / "b.pt")
    assert main(["diff", str(tmp_path / "a.pt"), str(tmp_path / "b.pt")]) == 1
    out = capsys.readouterr().out
    assert "only in b: other state (x)" in out
    assert "other state: the same" not in out


def test_integers_of_thousands_of_digits_can_be_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for number in (10**6000, 10**6001):
        path = tmp_path / f"{len(paths)}.pt"
        state = {
            "step": number,
            "epoch": number,
            "args": {"n": number},
            "x": {number: number, "y": number},
            "z": len(paths),
        }
        torch.save({**state, "model": {"w": torch.ones(2)}, "optimizer": {"state": {}, "param_groups": []}}, path)
        paths.append(str(path))
    assert main(["validate", *paths]) == 0
    assert main(["diff", *paths]) == 1
    capsys.readouterr()
    for command in ("diff", "validate"):
        code, answer = as_json(capsys, command, *paths)
        assert code == (command == "diff")
        assert answer["data"]
