"""What is listed of a run directory, what is said of it, and what is never taken for a checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.errors import CkptError
from ckpt_tui.services import validity
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.names import read_name
from tests.builders.run_directories import ARGS, damage, let_age, run_directory, save
from tests.builders.trees import tree_of


def test_own_names_by_kind_with_their_relations(tmp_path: Path) -> None:
    catalog = read_catalog(str(run_directory(tmp_path / "run")))
    assert [(e.kind, e.name, e.step) for e in catalog.entries] == [
        ("latest", "latest.pt", 400),
        ("latest", "latest_backup.pt", 300),
        ("rolling", "rolling_step_000400.pt", 400),
        ("rolling", "rolling_step_000300.pt", 300),
        ("rolling", "rolling_step_000200.pt", 200),
        ("rolling", "rolling_last_backup.pt", 400),
        ("best", "best_model.pt", 300),
        ("best", "best_model_backup.pt", 300),
        ("best", "best_model_previous.pt", 200),
    ]
    backups = {e.name: e.backup_of for e in catalog.entries if e.backup_of}
    assert backups == {
        "latest_backup.pt": "latest.pt",
        "rolling_last_backup.pt": "rolling_step_000400.pt",
        "best_model_backup.pt": "best_model.pt",
        "best_model_previous.pt": "best_model.pt",
    }
    assert {e.name for e in catalog.entries if e.is_best} == {"best_model.pt", "rolling_step_000300.pt"}
    assert catalog.total_bytes == sum(path.stat().st_size for path in (tmp_path / "run").glob("*.pt"))
    entry = catalog.entry("rolling_step_000200.pt")
    assert entry is not None
    assert (entry.val_loss, entry.epoch, entry.validity, entry.saved_at) == (2.8, 2, "unchecked", 1_790_000_200.0)


def test_resume_takes_the_newest_that_is_not_known_to_be_bad(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "run")
    save(directory / "emergency_step_000437_20260101_101010.pt", 437)
    assert read_catalog(str(directory)).resume_would_take == "emergency_step_000437_20260101_101010.pt"
    damage(directory / "emergency_step_000437_20260101_101010.pt")
    damage(directory / "latest.pt")
    let_age(directory / "latest.pt")
    catalog = read_catalog(str(directory), check="full")
    assert catalog.resume_would_take == "rolling_step_000400.pt"
    assert {e.name: e.validity for e in catalog.entries if e.validity != "valid"} == {
        "emergency_step_000437_20260101_101010.pt": "damaged",
        "latest.pt": "damaged",
    }
    bad = catalog.entry("latest.pt")
    assert bad is not None
    assert bad.level == "structure"
    assert "data/0" in bad.note
    # Remembered: the next look knows it without reading.
    assert read_catalog(str(directory)).resume_would_take == "rolling_step_000400.pt"


def test_truncated_file_is_seen_without_a_check(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "run")
    path = directory / "latest.pt"
    path.write_bytes(path.read_bytes()[:900])
    entry = read_catalog(str(directory)).entry("latest.pt")
    assert entry is not None
    assert entry.validity == "damaged"
    assert not entry.resume_takes


@pytest.mark.parametrize(
    "name",
    [
        ".latest.pt.tmp-12", "latest.pt.tmp", "latest.tmp.pt", "tmp_step.pt", "latest.pt~", "#latest.pt#", "notes.txt",
        "events.jsonl", "latest.pt.partial", "a.incomplete.ckpt",
    ],
)  # fmt: skip
def test_temporary_and_other_files_are_not_checkpoints(tmp_path: Path, name: str) -> None:
    save(tmp_path / name, 5)
    assert read_catalog(str(tmp_path)).entries == ()


@pytest.mark.parametrize(
    ("name", "kind", "step", "epoch", "backup_of"),
    [
        ("checkpoint_epoch0003_step00000500_loss1.2345.pt", "other", 500, 3, None),
        ("epoch=3-step=500.ckpt", "other", 500, 3, None),
        ("last.ckpt", "latest", None, None, None),
        ("model_best.pth", "best", None, None, None),
        ("last_backup.ckpt", "latest", None, None, "last.ckpt"),
        ("ckpt-1200.bin", "other", 1200, None, None),
        ("emergency_step_000123_20260101_101010.pt", "emergency", 123, None, None),
        ("epoch_00007.pt", "epoch", None, 7, None),
    ],
)
def test_names_of_other_people_are_understood(
    name: str, kind: str, step: int | None, epoch: int | None, backup_of: str | None
) -> None:
    facts = read_name(name)
    assert facts is not None
    assert (facts.kind, facts.step, facts.epoch, facts.backup_of) == (kind, step, epoch, backup_of)


@pytest.mark.parametrize("name", ["last.ckpt", "last-v2.ckpt"])
def test_lightnings_last_is_the_newest_also_where_it_is_a_directory(name: str) -> None:
    for is_directory in (False, True):
        facts = read_name(name, is_directory=is_directory)
        assert facts is not None
        assert facts.kind == "latest"


def test_data_that_only_ends_like_a_checkpoint_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(os.urandom(5000))
    assert read_catalog(str(tmp_path)).entries == ()


def test_hard_links_are_one_content(tmp_path: Path) -> None:
    save(tmp_path / "rolling_step_000100.pt", 100)
    os.link(tmp_path / "rolling_step_000100.pt", tmp_path / "latest.pt")
    catalog = read_catalog(str(tmp_path))
    latest = catalog.entry("latest.pt")
    assert latest is not None
    assert latest.same_as == ("rolling_step_000100.pt",)
    assert catalog.total_bytes == (tmp_path / "latest.pt").stat().st_size


def test_links_that_lead_outside_are_not_followed(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    save(tmp_path / "outside.pt", 1)
    save(directory / "inside_100.pt", 100)
    (directory / "latest.pt").symlink_to(tmp_path / "outside.pt")
    (directory / "best_model.pt").symlink_to("inside_100.pt")
    (directory / "epoch_00001.pt").symlink_to("nowhere.pt")
    assert {e.name for e in read_catalog(str(directory)).entries} == {"inside_100.pt", "best_model.pt"}


def test_registry_is_believed_only_while_it_agrees_with_the_file(tmp_path: Path) -> None:
    save(tmp_path / "latest.pt", 100)
    status = (tmp_path / "latest.pt").stat()
    row = {
        "path": "latest.pt", "kind": "latest", "step": 111, "epoch": 1, "metrics": {"val_loss": 1.5},
        "bytes": status.st_size, "mtime": status.st_mtime, "time": 5.0, "digest": "", "is_best": True,
    }  # fmt: skip
    registry = tmp_path / "registry.json"
    registry.write_text(json.dumps({"version": 1, "checkpoints": [row]}))
    assert [(e.step, e.val_loss, e.is_best) for e in read_catalog(str(tmp_path)).entries] == [(111, 1.5, True)]
    registry.write_text(json.dumps({"version": 1, "checkpoints": [{**row, "bytes": 1}]}))
    assert [(e.step, e.val_loss) for e in read_catalog(str(tmp_path)).entries] == [(100, None)]
    for nonsense in ("", "[]", '{"checkpoints": 5}', '{"checkpoints": [5, {"path": 7}]}', "[" * 100_000):
        registry.write_text(nonsense)
        assert [e.step for e in read_catalog(str(tmp_path)).entries] == [100]


def test_retention_removes_the_oldest_of_a_full_pool_next(tmp_path: Path) -> None:
    for step in (9, 10, 100):  # by number, not by name
        save(tmp_path / f"rolling_step_{step}.pt", step, args={**ARGS, "keep_checkpoints": 3})
    assert [e.name for e in read_catalog(str(tmp_path)).entries if e.removed_next] == ["rolling_step_9.pt"]
    (tmp_path / "rolling_step_9.pt").unlink()
    assert [e.name for e in read_catalog(str(tmp_path)).entries if e.removed_next] == []


def test_what_goes_next_is_said_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (10, 20, 30):
        save(tmp_path / f"rolling_step_{step}.pt", step, args={**ARGS, "keep_checkpoints": 2})
    main(["list", str(tmp_path)])
    told = [line for line in capsys.readouterr().out.splitlines() if "The next rolling checkpoint removes" in line]
    assert len(told) == 1
    assert {"rolling_step_10.pt", "rolling_step_20.pt"} == set(told[0].removesuffix(".").replace(",", "").split()[-2:])


def test_missing_original_is_told_with_its_backups(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "run")
    (directory / "latest.pt").unlink()
    assert read_catalog(str(directory)).missing == {"latest.pt": ("latest_backup.pt",)}


def test_listing_changes_nothing_and_says_what_it_cannot_read(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "run")
    before = tree_of(directory)
    read_catalog(str(directory), check="full")
    assert tree_of(directory) == before
    with pytest.raises(CkptError, match="Not found"):
        read_catalog(str(tmp_path / "nowhere"))
    with pytest.raises(CkptError, match="Not a directory"):
        read_catalog(str(directory / "latest.pt"))


class TestRememberedValidity:
    def checked(self, path: Path) -> validity.Validation:
        return validity.check(str(path))

    def test_is_recalled_while_the_content_is_the_same(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "latest.pt"
        save(path, 1)
        let_age(path)
        first = self.checked(path)
        assert first.verdict == "valid"

        def never(*args: object, **kwargs: object) -> object:
            raise AssertionError("validated again")

        monkeypatch.setattr(validity, "validate_checkpoint", never)
        again = validity.check(str(path))
        assert (again.verdict, again.levels, again.step) == (first.verdict, first.levels, first.step)
        damage(path)
        with pytest.raises(AssertionError, match="validated again"):
            validity.check(str(path))

    def test_structure_alone_does_not_answer_for_every_level(self, tmp_path: Path) -> None:
        path = tmp_path / "latest.pt"
        save(path, 1)
        damage(path)
        let_age(path)
        assert validity.check(str(path), ("structure",)).verdict == "valid"
        assert validity.check(str(path)).verdict == "damaged"
        assert validity.check(str(path), ("structure",)).verdict == "damaged", "what is known is not forgotten"

    def test_other_names_of_the_same_bytes_are_known_with_it(self, tmp_path: Path) -> None:
        path = tmp_path / "latest.pt"
        save(path, 1)
        os.link(path, tmp_path / "best_model.pt")
        os.link(path, tmp_path / "rolling_step_000001.pt")
        let_age(path)
        self.checked(path)
        assert validity.recall(str(tmp_path / "best_model.pt")) is not None
        # Whether a step in a name agrees has to be looked at for that name.
        assert validity.recall(str(tmp_path / "rolling_step_000001.pt")) is None

    def test_threads_and_processes_do_not_lose_each_others_records(self, tmp_path: Path) -> None:
        from concurrent.futures import ThreadPoolExecutor

        paths = [tmp_path / f"epoch_{number}.pt" for number in range(12)]
        for path in paths:
            save(path, 1)
        let_age(paths[-1])
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self.checked, paths))
        assert all(validity.recall(str(path)) is not None for path in paths)

    def test_home_that_cannot_be_written_is_no_trouble(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "latest.pt"
        save(path, 1)
        let_age(path)
        monkeypatch.setenv("XDG_CACHE_HOME", str(path))  # a file, where a directory should be
        assert self.checked(path).verdict == "valid"
        assert validity.recall(str(path)) is None
