"""Files made to harm the one who looks: in every form of `inspect` and every view of its screen they stay text."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from textual.widgets import Input

from ckpt_tui.cli import main
from ckpt_tui.tui.screens.inspect import VIEW_KEYS, InspectScreen
from ckpt_tui.tui.widgets.virtual_list import VirtualList
from tests.builders.checkpoints_by_hand import HOSTILE_NAMES
from tests.builders.hostile_pickles import HAZARDS
from tests.builders.pace import cpu_time
from tests.builders.screen_app import ScreenApp, assert_nothing_hostile, settled
from tests.builders.torch_files import save_bytes, zip_of

NAMES = (*HOSTILE_NAMES, "line\nbreak", "tab\tand\rreturn", "zero\u200bwidth", "c1\x9b31m", "a" * 300 + ".b" * 300)


def _names_everywhere() -> bytes:
    """Each as the name of a tensor, a setting, an optimizer's setting, a moment, a key, and as a value."""
    texts = {name: name for name in NAMES}
    groups = [{"params": [number], name: name} for number, name in enumerate(NAMES)]
    moments = {number: {name: torch.ones(2) for name in NAMES} for number in range(len(NAMES))}
    state = {
        "model": {name: torch.ones(2) for name in NAMES}, "args": texts, "epoch": NAMES[2], "step": 5, NAMES[2]: texts,
        "optimizer": {"param_groups": groups, "state": moments},
    }  # fmt: skip
    return save_bytes(state)


@pytest.mark.parametrize("options", [[], ["--all"], ["--stats"], ["--all", "--filter", "*\x1b*"]], ids=" ".join)
def test_no_control_character_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "h\x1b[2J\u202e.pt"
    path.write_bytes(_names_everywhere())
    assert main(["inspect", str(path), *options]) == 0
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert all(line.isprintable() for line in text.splitlines())
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "[/closing]" in shown.out or options


def test_the_json_is_plain_ascii_and_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "h.pt"
    path.write_bytes(_names_everywhere())
    assert main(["inspect", str(path), "--json"]) == 0
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert shown.removesuffix("\n").isprintable()
    tensors = [tensor["name"] for tensor in json.loads(shown)["data"]["tensors"]]
    assert tensors[: len(NAMES)] == [f"model.{name}" for name in NAMES]


# Those that open; what the others are refused for is shown in words, which `test_inspect_screen` looks at.
OPENED = (
    "key nested 100,000 deep", "10,000 dimensions", "exabytes in one tensor", "strides beyond everything",
    "list nested 200,000 deep", "billion laughs", "cycle of dicts",
)  # fmt: skip


@pytest.mark.parametrize("name", ["names", *OPENED])
async def test_the_screen_survives_it_in_every_view(tmp_path: Path, name: str) -> None:
    path = tmp_path / "h.pt"
    path.write_bytes(_names_everywhere() if name == "names" else zip_of(HAZARDS[name]))
    screen = InspectScreen(str(path))
    app = ScreenApp(screen)
    with cpu_time() as took:
        async with app.run_test(size=(80, 24)) as pilot:
            await settled(pilot, deadline_s=120)
            assert screen.opened is not None
            for view in VIEW_KEYS:
                screen.action_view(view)
                shown = screen.query_one(f"#{view}", VirtualList)
                for step in (
                    screen.action_open_branch, screen.action_sort, shown.action_move_to_end, screen.action_statistics,
                    screen.action_reverse, screen.action_filter,
                    partial(setattr, screen.query_one(Input), "value", "e a"), screen.action_leave,
                ):  # fmt: skip
                    if view in ("tree", "tensors") or step not in (screen.action_sort, screen.action_reverse):
                        step()
                    await pilot.pause()
                    assert_nothing_hostile(app)
                assert not app.has_ended
            await settled(pilot, deadline_s=120)
            assert_nothing_hostile(app)
    # A state that is walked without end would take minutes.
    assert took.seconds < 30
