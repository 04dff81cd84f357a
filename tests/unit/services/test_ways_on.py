"""What acts say of the way on and back: commands that can be typed as they stand, and true words."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.services.carrying_out import carry_out
from ckpt_tui.services.rollback import plan_rollback
from ckpt_tui.services.undo import plan_redo, plan_undo
from ckpt_tui.text import run_word
from tests.builders.run_directories import run_directory


class TestWaysOn:
    """Commands that are suggested can be typed as they stand."""

    def test_the_way_back_names_the_directory_as_it_was_typed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        run_directory(tmp_path / "my run")
        assert carry_out(plan_rollback("my run", "300")).sentences[-1] == "`ckpt-tui undo 'my run'` takes it back."
        assert carry_out(plan_undo("my run")).sentences[-1] == "`ckpt-tui undo 'my run' --redo` does it again."
        monkeypatch.chdir("/")
        done = carry_out(plan_rollback(str(tmp_path / "my run"), "300"))
        assert done.sentences[-1] == f"`ckpt-tui undo '{str(tmp_path)[1:]}/my run'` takes it back."

    def test_a_redo_sets_aside_again_what_was_there(self, tmp_path: Path) -> None:
        run = str(run_directory(tmp_path / "run"))
        carry_out(plan_rollback(run, "300"))
        carry_out(plan_undo(run))
        said = plan_redo(run).sentences
        assert "rolling_step_000400.pt, rolling_last_backup.pt are set aside again." in said
        assert not [sentence for sentence in said if "before" in sentence and "as before" not in sentence]

    def test_a_mistyped_directory_is_not_one_where_nothing_was_done(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["undo", str(tmp_path), "--list"]) == 2
        assert "Not a run directory" in capsys.readouterr().err
        run_directory(tmp_path / "run")
        assert main(["undo", str(tmp_path / "run"), "--list"]) == 0


@pytest.mark.parametrize(("path", "word"), [("~x", "'~x'"), ("a'b", "'a'\\''b'"), ("-x", "/tmp/-x"), ("a", "a")])
def test_a_directory_is_one_word_for_the_shell(path: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")
    assert run_word(f"/tmp/{path}") == word
