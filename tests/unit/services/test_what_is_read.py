"""What restore and undo read for their plans, what they do not, and that they say so."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.services import files, journal, validity
from ckpt_tui.services.restore import carry_out, plan_restore, plan_rollback
from ckpt_tui.services.undo import plan_redo, plan_undo
from tests.builders.run_directories import damage, let_age, run_directory
from tests.builders.set_aside import copied


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = run_directory(tmp_path / "run")
    for path in directory.glob("*.pt"):
        let_age(path)
    return directory


def decay(path: Path) -> None:
    """Other bits under the same size, time and inode."""
    status = path.stat()
    damage(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


class TestRestore:
    def test_says_what_it_did_not_read_and_reads_it_when_asked(
        self, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert plan_restore(str(run)).unread == (), "nobody had looked: all was read"
        decay(run / "best_model.pt")
        known = validity.recall(str(run / "best_model.pt"))
        assert known is not None
        assert known.verdict == "valid", "by its size, time and inode"
        plan = plan_restore(str(run))
        assert (plan.is_empty, plan.unread) == (True, ("best_model.pt",))
        (said,) = (sentence for sentence in plan.sentences if sentence.startswith("Not read now"))
        assert "as last validated at 20" in said
        assert f"`ckpt-tui restore {run} --recheck` reads again." in said
        assert main(["restore", str(run), "--recheck", "--yes", "--json"]) == 0
        data = json.loads(capsys.readouterr().out)["data"]
        assert (data["done"], data["unread"], [step["target"] for step in data["steps"]]) == (
            True, [], ["best_model.pt"]
        )  # fmt: skip
        assert (run / "best_model.pt").read_bytes() == (run / "best_model_backup.pt").read_bytes()

    def test_what_was_read_within_the_hour_and_not_touched_since_is_as_good_as_read(self, run: Path) -> None:
        plan_restore(str(run))
        num_read: list[int] = []
        assert plan_restore(str(run), on_bytes=num_read.append).unread == ()
        assert not num_read
        assert plan_restore(str(run), recheck=True, on_bytes=num_read.append).unread == ()
        assert sum(num_read) >= sum((run / name).stat().st_size for name in ("latest.pt", "best_model.pt"))


class TestUndo:
    def test_reads_only_what_a_resume_would_start_from(self, run: Path) -> None:
        carry_out(plan_rollback(str(run), "200"))
        num_read: list[int] = []
        plan = plan_undo(str(run), on_bytes=num_read.append)
        put_back = {step.target for step in plan.steps if step.action == "put back"}
        assert plan.resume_takes in put_back - set(plan.unread)
        assert len(plan.unread) == len(put_back) - 1 > 2
        assert 0 < sum(num_read) < 2 * (run / "set_aside/1/latest.pt").stat().st_size
        (said,) = (sentence for sentence in plan.sentences if sentence.startswith("Not read"))
        assert f"untouched since they were set aside: {len(plan.unread)} files" in said
        assert f"`ckpt-tui undo {run} --recheck` reads them." in said
        whole = plan_undo(str(run), recheck=True, on_bytes=num_read.append)
        assert whole.unread == ()
        assert whole.moves == plan.moves
        assert not [sentence for sentence in whole.sentences if sentence.startswith("Not read")]
        carry_out(plan)
        assert len(plan_redo(str(run)).unread) > 0

    def test_what_somebody_touched_is_read_whatever_its_time_says(self, run: Path) -> None:
        carry_out(plan_rollback(str(run), "200"))
        decay(run / "set_aside/1/best_model.pt")
        plan = plan_undo(str(run))
        assert "best_model.pt" not in plan.unread
        assert any("set_aside/1/best_model.pt is damaged; nobody had looked" in warning for warning in plan.warnings)

    def test_what_an_earlier_look_found_is_no_reason_not_to_read_what_was_touched_since(self, run: Path) -> None:
        carry_out(plan_rollback(str(run), "200"))
        for path in (run / "set_aside/1").glob("*.pt"):
            let_age(path)
        plan_undo(str(run), recheck=True)  # remembered, with the times that stay
        names = {path.name for path in (run / "set_aside/1").glob("*.pt")}
        for name in names:
            assert validity.recall(str(run / "set_aside/1" / name)) is not None
            decay(run / "set_aside/1" / name)
        plan = plan_undo(str(run))
        assert sum("set_aside/1/" in one and " is damaged" in one for one in plan.warnings) == len(names)
        assert plan.resume_step == 200, "the only one that was not touched"

    def test_all_is_read_again_when_asked_whatever_was_found_a_moment_ago(self, run: Path) -> None:
        carry_out(plan_rollback(str(run), "200"))
        num_read: list[int] = []
        for _ in range(2):
            num_read.clear()
            plan_undo(str(run), recheck=True, on_bytes=num_read.append)
            assert sum(num_read) >= sum(path.stat().st_size for path in (run / "set_aside/1").glob("*.pt"))

    def test_what_a_link_leads_to_may_have_changed_without_it(self, run: Path, tmp_path: Path) -> None:
        (run / "latest.pt").replace(tmp_path / "elsewhere.pt")
        (run / "latest.pt").mkdir()
        (run / "latest.pt/model.pt").symlink_to(tmp_path / "elsewhere.pt")
        carry_out(plan_restore(str(run), ["latest_backup.pt"]))
        decay(tmp_path / "elsewhere.pt")
        plan = plan_undo(str(run))
        assert [step.target for step in plan.steps if step.action == "put back"] == ["latest.pt"]
        assert plan.unread == ()
        assert files.changed_ns(str(run / "set_aside/1/latest.pt/model.pt")) == 0, "of the link itself"

    def test_what_was_written_in_the_tick_in_which_it_was_set_aside_may_be_written_again(self, run: Path) -> None:
        path = run / "latest.pt"
        assert files.changed_ns(str(path)) == path.stat().st_ctime_ns
        os.utime(path)  # now: the time of its content is that of its last change
        assert files.changed_ns(str(path)) == 0
        os.utime(path, ns=(0, path.stat().st_ctime_ns - 10**8))
        assert files.changed_ns(str(path)) > 0

    @pytest.mark.parametrize("how", ["a copy of the directory", "an earlier version's journal"])
    def test_where_nothing_tells_that_it_is_untouched_all_is_read(self, run: Path, tmp_path: Path, how: str) -> None:
        carry_out(plan_rollback(str(run), "200"))
        if how == "a copy of the directory":
            run = copied(run, tmp_path / "copy")
        else:
            deed = journal.read_deed(str(run), 1)
            assert deed is not None
            for move in deed.moves:
                move.kept_changed_ns = 0
            journal.write_deed(str(run), deed)
        plan = plan_undo(str(run))
        assert (plan.unread, plan.is_empty) == ((), False)

    def test_a_source_that_a_resume_would_take_and_that_is_bad_is_told(self, run: Path) -> None:
        """It was so before, and nobody had looked: what comes after it is read, too."""
        decay(run / "rolling_step_000400.pt")
        for name in ("latest.pt", "rolling_last_backup.pt"):
            (run / name).unlink()
        carry_out(plan_rollback(str(run), "200"))
        plan = plan_undo(str(run))
        assert any("set_aside/1/rolling_step_000400.pt is damaged" in warning for warning in plan.warnings)
        assert plan.resume_step == 300
        assert plan.resume_takes not in plan.unread
