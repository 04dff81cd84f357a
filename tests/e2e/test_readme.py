"""The README is true: its commands run and print what it shows, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

from ckpt_tui.checkpoints.readers.base import directory_readers, file_readers
from ckpt_tui.cli import COMMANDS
from tests.e2e.readme import README, mask, masked, parse, run_all


def test_every_command_prints_what_the_readme_shows(tmp_path: Path) -> None:
    blocks = parse(README.read_text("utf-8"))
    assert sum(len(block) for block in blocks) >= 10
    for step in run_all(blocks, tmp_path):
        # Where a line breaks depends on how long its numbers are: the words and their order are compared.
        assert mask(" ".join(masked(step.printed))) == mask(" ".join(masked(step.shown))), (
            f"$ {step.command}\nprints\n" + "\n".join(step.printed) + "\n\nthe README shows\n" + "\n".join(step.shown)
        )


def test_every_command_of_the_program_is_in_the_readme() -> None:
    readme = README.read_text("utf-8")
    missing = [command.name for command in COMMANDS if f"ckpt-tui {command.name}" not in readme]
    assert not missing


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text("utf-8")):
        if not target.startswith("http"):
            assert (README.parent / target).exists(), target


def test_masking_keeps_words_and_drops_numbers() -> None:
    assert mask("at risk  162 steps, 8.9 s") == mask("at risk 7 steps, 1m 20s")
    assert mask("✓ valid  10.4 MB") != mask("✖ damaged  10.4 MB")
    assert masked(["a 1", "a 2", "", "b"]) == ["a N", "b"]


def test_progress_is_not_compared_and_results_are() -> None:
    slow = ["   35 ms  Asked to save and end.", " 1m 02s  Saved latest.pt.", "✓ Process 7 saved it in 2.0 s."]
    assert masked(slow) == masked(slow[2:])
    assert masked(["2.0 s lost"]) != []
    by_chance = "Training again what they lost took 2 % more time (goodput 98 %)."
    assert masked(["One step takes 55 ms.", by_chance]) == masked(["One step takes 19 ms."])


def test_one_of_what_the_readme_has_many_is_the_same_also_over_the_end_of_a_line() -> None:
    assert mask("from step 1,079, 1 step (25 ms) again") == mask("from step 1,014, 6 steps (65 ms) again")
    assert mask(" ".join(masked(["redoes 1", "step (25 ms)"]))) == mask(" ".join(masked(["redoes 60 steps (1 s)"])))
    assert mask("6 steps lost") != mask("6 saves lost")


def test_a_list_of_files_may_break_elsewhere() -> None:
    first = ["13 newer: latest.pt,", "  emergency_step_000996_20261121_114255.pt, best_model.pt and 7 more.", "done"]
    second = ["14 newer: latest.pt, rolling_step_001000.pt,", "  best_model.pt, a.pt,", "  b.pt and 8 more.", "done"]
    third = ["14 newer: latest.pt, rolling_step_001000.pt, b.pt and 8", "  more.", "done"]
    assert masked(first) == masked(second) == masked(third)
    assert masked(first) != masked(["13 newer: latest.pt and 7 more.", "undone"])
    assert mask("A resume then starts from latest.pt, step 3.") != mask("A resume then starts from best.pt, step 3.")


def test_every_format_that_is_read_is_in_the_table_with_a_test_that_is_there() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|.*`(tests/[^`]+)` \|$", README.read_text("utf-8"), re.MULTILINE)
    formats = {name for reader in (*file_readers(), *directory_readers()) for name in reader.formats}
    assert {name for name, _ in rows} == formats | {"lightning"}
    assert all((README.parent / test).exists() for _, test in rows)
