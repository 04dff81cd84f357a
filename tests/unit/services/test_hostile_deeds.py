"""Journals, links and names that somebody else put into set_aside/, and writers that come in the middle of a deed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ckpt_tui.errors import CkptError
from ckpt_tui.services import journal
from ckpt_tui.services.carrying_out import carry_out
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.catalog_entries import CatalogEntry
from ckpt_tui.services.deeds import read_history
from ckpt_tui.services.files import content_of
from ckpt_tui.services.gc import plan_gc
from ckpt_tui.services.interrupted import begin
from ckpt_tui.services.journal import Deed, LogEntry, Move, read_deed, write_deed
from ckpt_tui.services.launch_record import read_record
from ckpt_tui.services.restore import _is_not_ours_to_read, plan_restore
from ckpt_tui.services.restored_event import log_restored
from ckpt_tui.services.rollback import plan_rollback
from ckpt_tui.services.undo import plan_undo
from tests.builders.run_directories import damage, run_directory, save
from tests.builders.trees import tree_of


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_directory(tmp_path / "run")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """What a run directory has nothing to do with."""
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    (directory / "passwd").write_text("somebody's")
    return directory


class TestLinks:
    def test_an_unfinished_deed_moves_nothing_through_a_link(self, run: Path, elsewhere: Path) -> None:
        (run / "link").symlink_to(elsewhere)
        (run / "set_aside" / "1" / "link").mkdir(parents=True)
        before = content_of(str(elsewhere / "passwd"))
        write_deed(str(run), Deed(1, "restore", journal.PREPARED, [Move("link/passwd", "remove", before=before)]))
        _, said = begin(str(run))
        assert tree_of(elsewhere) == {"passwd": b"somebody's"}
        assert "left alone" in said[0]
        assert begin(str(run))[1] == []

    def test_an_unfinished_deed_moves_nothing_into_a_linked_folder_of_deeds(self, run: Path, elsewhere: Path) -> None:
        (elsewhere / "1").mkdir()
        (run / "set_aside").symlink_to(elsewhere)
        before = content_of(str(run / "latest.pt"))
        write_deed(str(run), Deed(1, "restore", journal.PREPARED, [Move("latest.pt", "remove", before=before)]))
        with pytest.raises(CkptError, match="is a link or a file"):
            begin(str(run))
        assert (run / "latest.pt").exists()

    def test_an_undo_takes_nothing_from_behind_a_link(self, run: Path, elsewhere: Path) -> None:
        carry_out(plan_rollback(str(run), "300"))
        deed = read_deed(str(run), 1)
        assert deed is not None
        (run / "set_aside" / "1" / "link").symlink_to(elsewhere)
        (run / "link").mkdir()
        deed.moves = [Move("link/passwd", "remove", before=content_of(str(elsewhere / "passwd")))]
        write_deed(str(run), deed)
        with pytest.raises(CkptError, match="Behind a link"):
            carry_out(plan_undo(str(run)))
        assert tree_of(elsewhere) == {"passwd": b"somebody's"}


class TestNames:
    def test_a_file_or_a_link_named_like_a_deed_is_nobodys_deed(self, run: Path, elsewhere: Path) -> None:
        (run / "set_aside").mkdir()
        (run / "set_aside" / "7").write_text("a person's")
        (elsewhere / "passwd").unlink()
        (run / "set_aside" / "8").symlink_to(elsewhere)
        assert begin(str(run))[1] == []
        assert (run / "set_aside" / "7").read_text() == "a person's"
        carry_out(plan_rollback(str(run), "300"))
        assert read_deed(str(run), 9) is not None

    def test_a_copy_of_a_deeds_folder_is_no_second_deed(self, run: Path) -> None:
        carry_out(plan_rollback(str(run), "300"))
        shutil.copytree(run / "set_aside" / "1", run / "set_aside" / "01")
        assert journal.deed_numbers(str(run)) == [1]
        assert read_history(str(run)).not_ours == ("set_aside/01",)

    def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(self, run: Path) -> None:
        for name in ("registry.json", "launch.json", "set_aside/1/journal.json", "quarantine/latest.json"):
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            os.mkfifo(run / name)
        assert read_record(str(run)) is None
        assert read_catalog(str(run)).resume_would_take == "latest.pt"
        assert [deed.state for deed in read_history(str(run)).deeds] == ["unreadable"]
        carry_out(plan_rollback(str(run), "300"))
        assert not plan_gc(str(run)).refusals


class TestSomebodyWrites:
    def test_a_file_that_is_written_while_copies_are_made_leaves_everything_as_it_was(self, run: Path) -> None:
        damage(run / "latest.pt")
        damage(run / "best_model.pt")
        plan = plan_restore(str(run))
        assert {move.target for move in plan.moves} == {"latest.pt", "best_model.pt"}
        before = tree_of(run)
        written: list[bytes] = []

        def trained(num_bytes: int) -> None:
            if not written:
                written.append(save(run / "best_model.pt", 420, val_loss=1.0))

        with pytest.raises(CkptError, match=r"best_model\.pt is not what it was"):
            carry_out(plan, on_bytes=trained)
        assert tree_of(run) == before | {"best_model.pt": written[0]}
        assert read_history(str(run)).deeds == ()

    def test_a_log_that_cannot_be_read_is_no_reason_not_to_finish(self, run: Path) -> None:
        (run / "events.jsonl").unlink()
        os.mkfifo(run / "events.jsonl")
        log_restored(str(run), Deed(1, "restore", journal.MOVED, [], log=[LogEntry("latest.pt", "a.pt", "damaged")]))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
class TestNotOursToRead:
    def test_a_deed_of_somebody_else_does_not_hide_the_others(self, run: Path) -> None:
        carry_out(plan_rollback(str(run), "300"))
        carry_out(plan_rollback(str(run), "200"))
        (run / "set_aside" / "1").chmod(0)
        try:
            assert [deed.state for deed in read_history(str(run)).deeds] == ["unreadable", "done"]
        finally:
            (run / "set_aside" / "1").chmod(0o700)

    def test_what_nobody_could_read_is_not_taken_for_damaged(self, run: Path) -> None:
        (run / "latest.pt").chmod(0)
        plan = plan_restore(str(run))
        assert plan.is_empty
        assert "latest.pt is not for you to read: whether it is damaged is not known. It stays." in plan.warnings
        with pytest.raises(CkptError, match="No permission"):
            plan_restore(str(run), ["latest.pt"])

    def test_nor_a_directory_with_a_file_that_nobody_could_read(self, run: Path) -> None:
        (run / "latest.pt").unlink()
        assert not _is_not_ours_to_read(CatalogEntry("a", str(run), "other", None, None, None, 0, None))
        (run / "best_model.pt").chmod(0)
        entry = CatalogEntry("a", str(run), "other", None, None, None, 0, None, validity="unreadable")
        assert _is_not_ours_to_read(entry)
