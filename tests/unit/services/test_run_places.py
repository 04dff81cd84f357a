"""Finding runs below a directory: bounded, whatever is in the way, and cheap to ask again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.services import run_places
from ckpt_tui.services.run_places import RunFinder, holds_runs
from ckpt_tui.services.runs import read_runs
from ckpt_tui.sources.places import candidates
from ckpt_tui.sources.registry import find_log


def make_run(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / LOG_NAME).write_bytes(b"")
    return path


def names(root: Path, **limits: int) -> list[str]:
    return [place.name for place in RunFinder(str(root), **limits).find().places]


def test_runs_are_found_to_the_depth_and_no_deeper(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "sweep" / "lr" / "b")
    make_run(tmp_path / "1" / "2" / "3" / "c")
    assert sorted(names(tmp_path)) == ["a", "sweep/lr/b"]
    assert names(tmp_path, max_depth=1) == ["a"]


def test_a_run_inside_a_run_is_a_run(tmp_path: Path) -> None:
    make_run(make_run(tmp_path / "outer") / "inner")
    assert sorted(names(tmp_path)) == ["outer", "outer/inner"]


def test_the_directory_itself_may_be_a_run(tmp_path: Path) -> None:
    make_run(tmp_path)
    found = RunFinder(str(tmp_path)).find()
    assert found.own_log == str(tmp_path / LOG_NAME)
    assert found.places == ()


def test_loops_of_links_end_and_a_run_counts_once_by_its_own_name(tmp_path: Path) -> None:
    make_run(tmp_path / "run7")
    (tmp_path / "a_link_that_sorts_first").symlink_to(tmp_path / "run7")
    (tmp_path / "up").symlink_to(tmp_path)
    (tmp_path / "run7" / "itself").symlink_to(tmp_path / "run7")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    found = RunFinder(str(tmp_path)).find()
    assert [place.name for place in found.places] == ["run7"]
    assert found.num_unreadable == 0


def test_runs_that_only_a_link_leads_to_are_found(tmp_path: Path) -> None:
    make_run(tmp_path / "elsewhere" / "x")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "runs").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "project") == ["runs/x"]


def test_a_log_that_is_a_directory_or_a_pipe_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "a" / LOG_NAME).mkdir(parents=True)
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / LOG_NAME)
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_directories_nobody_may_read_are_counted(tmp_path: Path) -> None:
    make_run(tmp_path / "open")
    make_run(tmp_path / "closed")
    (tmp_path / "closed").chmod(0)
    try:
        found = RunFinder(str(tmp_path)).find()
    finally:
        (tmp_path / "closed").chmod(0o755)
    assert [place.name for place in found.places] == ["open"]
    assert found.num_unreadable == 1


def test_a_directory_that_cannot_be_listed_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "open")
    make_run(tmp_path / "closed")
    real = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = RunFinder(str(tmp_path)).find()
    assert [place.name for place in found.places] == ["open"]
    assert found.num_unreadable == 1


def test_there_is_an_end_to_it_and_it_says_so(tmp_path: Path) -> None:
    for index in range(30):
        make_run(tmp_path / f"run{index:02d}")
    assert not RunFinder(str(tmp_path)).find().is_cut
    few = RunFinder(str(tmp_path), max_runs=10).find()
    assert (len(few.places), few.is_cut) == (10, True)
    assert RunFinder(str(tmp_path), max_directories=10).find().is_cut


def test_a_second_search_lists_only_what_changed(tmp_path: Path) -> None:
    for index in range(5):
        make_run(tmp_path / f"run{index}")
    for path in (tmp_path, *tmp_path.iterdir()):
        os.utime(path, (1_000, 1_000))
    finder = RunFinder(str(tmp_path))
    first = finder.find()
    assert (len(first.places), finder.num_listed) == (5, 6)
    assert finder.find() == first
    assert finder.num_listed == 6
    (tmp_path / "run2" / LOG_NAME).unlink()
    make_run(tmp_path / "run9")
    assert sorted(place.name for place in finder.find().places) == ["run0", "run1", "run3", "run4", "run9"]
    assert finder.num_listed == 6 + 3  # the directory, the run that is none any more, and the new one


def test_hidden_and_foreign_trees_are_left_alone(tmp_path: Path) -> None:
    for name in (".git", "__pycache__", "node_modules"):
        make_run(tmp_path / name / "x")
    assert names(tmp_path) == []


def test_a_hostile_name_is_only_a_name(tmp_path: Path) -> None:
    make_run(tmp_path / "\x1b]0;owned\x07[bold]\n")
    make_run(tmp_path / os.fsdecode(b"\xff\xfe"))
    assert len(names(tmp_path)) == 2


def test_what_is_a_directory_of_runs(tmp_path: Path) -> None:
    assert not holds_runs(str(tmp_path))
    assert holds_runs(str(tmp_path), counts_empty=True)
    (tmp_path / "latest.pt").write_bytes(b"x")
    assert not holds_runs(str(tmp_path), counts_empty=True)  # checkpoints without a log
    make_run(tmp_path / "deep" / "a")
    assert holds_runs(str(tmp_path))
    assert not holds_runs(str(tmp_path / "deep" / "a"))
    assert not holds_runs(str(tmp_path / "deep" / "a" / LOG_NAME))
    assert not holds_runs(str(tmp_path / "nothing"))


def test_logs_of_other_programs_are_runs_too(tmp_path: Path) -> None:
    for version in range(2):
        directory = tmp_path / "mnist" / "lightning_logs" / f"version_{version}"
        directory.mkdir(parents=True)
        (directory / "metrics.csv").write_text("epoch,step,train_loss\n0,1,2.5\n0,2,2.25\n")
    for step in (10, 20):
        checkpoint = tmp_path / "bert" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        history = [{"loss": 1.5, "step": at, "epoch": 0.1} for at in range(1, step + 1)]
        state = {"global_step": step, "max_steps": 40, "log_history": history}
        (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "metrics.csv").write_text("name,price\nbread,3\n")
    make_run(tmp_path / "gpt")
    assert sorted(names(tmp_path)) == [
        "bert", "gpt", "mnist/lightning_logs/version_0", "mnist/lightning_logs/version_1",
    ]  # fmt: skip
    assert holds_runs(str(tmp_path))
    assert holds_runs(str(tmp_path / "mnist" / "lightning_logs"))
    assert not holds_runs(str(tmp_path / "mnist"))  # the newest version is watched
    make_run(tmp_path / "mnist" / "other")
    assert holds_runs(str(tmp_path / "mnist"))
    (tmp_path / "mnist" / "other" / LOG_NAME).unlink()
    by_name = {one.name: one for one in read_runs(str(tmp_path)).runs}
    assert (by_name["bert"].step, by_name["bert"].total_steps) == (20, 40)
    assert by_name["mnist/lightning_logs/version_1"].last_loss == 2.25


def test_on_a_disk_that_does_not_answer_in_time_there_may_be_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes").mkdir()
    assert not holds_runs(str(tmp_path))
    monkeypatch.setattr(run_places, "LONGEST_DECISION_S", -1.0)
    assert holds_runs(str(tmp_path))
    make_run(tmp_path)
    assert not holds_runs(str(tmp_path))


def test_a_log_of_the_shell_beside_runs_does_not_hide_them(tmp_path: Path) -> None:
    (tmp_path / "nohup.out").write_text("".join(f"step {at}: loss {5 / at:.4f}\n" for at in range(1, 50)))
    assert not holds_runs(str(tmp_path))
    make_run(tmp_path / "a")
    assert holds_runs(str(tmp_path))
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["train.log", "metrics.csv", "metrics.jsonl"])
def test_a_pipe_with_the_name_of_a_log_is_none(name: str, tmp_path: Path) -> None:
    """To open one waits for who writes it: the list of runs stood still for ever."""
    os.mkfifo(tmp_path / name)
    assert candidates(str(tmp_path)) == []
    assert find_log(str(tmp_path)) is None
