"""The inspect screen in an app: views, filter, statistics, 100,000 tensors, hostile names, files that do not open."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from textual import events
from textual.widgets import Input

from ckpt_tui.checkpoints import values
from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.values import TensorStatistics
from ckpt_tui.errors import CkptError
from ckpt_tui.text import cell_width
from ckpt_tui.tui import theme
from ckpt_tui.tui.screens import inspect as inspect_module
from ckpt_tui.tui.screens.inspect import VIEW_KEYS, InspectScreen
from ckpt_tui.tui.screens.inspect_text import rule_content
from ckpt_tui.tui.widgets.virtual_list import VirtualList
from tests.builders import frameworks
from tests.builders.checkpoints_by_hand import checkpoint_of, hostile_checkpoint, small_gpt, tensor_info
from tests.builders.safetensors_by_hand import write_safetensors
from tests.builders.screen_app import ScreenApp, assert_nothing_hostile, seen, seen_text, settled, until

STATISTICS = TensorStatistics(
    num_elements=8192, min=-0.213, max=0.207, mean=0.0001, std=0.051, norm=4.6, zeros=3, nan=2, inf=0,
    histogram=(0, 1, 4, 9, 4, 1), first_bad_index=17,
)  # fmt: skip


async def test_every_view_shows_what_it_is_for(opens: Callable[..., None]) -> None:
    opens(small_gpt())
    app = ScreenApp(InspectScreen("/run/rolling_step_008250.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        top = seen(app)
        assert "rolling_step_008250.pt" in top[0]
        assert "safe to open" in top[0]
        assert "torch-zip" in top[0]
        assert top[1].split()[:4] == ["step", "8,250", "epoch", "4"]
        for key, expected in {
            "t": ["model", "23 entries", "wte.weight"],
            "n": ["model.h.0.attn.qkv.weight", "384 x 128", "float32"],
            "s": ["hyperparameters", "betas", "[0.9, 0.95]", "2025-11-21"],
            "o": ["AdamW", "group 0", "weight_decay"],
            "p": ["✓ known", "rebuilds a tensor"],
            "f": ["▲ warning", "byte 81,220", "12 bytes follow it", "Compare its size."],
        }.items():
            await pilot.press(key)
            await pilot.pause()
            for words in expected:
                assert words in seen_text(app), (key, words, seen_text(app))


async def test_a_bar_is_a_share_of_all_in_the_tree_and_in_the_list(opens: Callable[..., None]) -> None:
    opens(checkpoint_of([tensor_info(name, (64, 64)) for name in ("one", "two", "three", "four")]))
    app = ScreenApp(InspectScreen("/run/a.pt"))
    async with app.run_test(size=(120, 24)) as pilot:
        await settled(pilot)
        for key in "tn":
            await pilot.press(key)
            await settled(pilot)
            assert "of all" in seen_text(app), key
            rows = [text for text in seen(app) if "64 x 64" in text]
            assert [text.count("█") for text in rows] == [2] * 4, (key, rows)


async def test_filter_as_you_type_sort_and_esc_one_thing_at_a_time(opens: Callable[..., None]) -> None:
    opens(small_gpt())
    app = ScreenApp(InspectScreen("/run/a.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("n", "slash", *"attn 384")
        assert "4 of 23" not in seen_text(app), "the rule is hidden while the filter is typed"
        await pilot.press("enter")
        assert "/ filter: attn 384" in seen_text(app)
        assert "4 of 23" in seen_text(app)
        await pilot.press("z")
        assert "largest first" in seen_text(app)
        await pilot.press("escape")
        assert "23 tensors ─" in seen_text(app)
        assert not app.has_ended
        await pilot.press("escape")
        assert app.has_ended


async def test_letters_that_come_at_once_go_into_the_filter(opens: Callable[..., None]) -> None:
    """As over a slow line, where keys arrive in bunches: `o` and `p` would show other views."""
    opens(small_gpt())
    app = ScreenApp(InspectScreen("/run/a.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        for key in ("n", "slash", *"proj", "space", "x"):
            app.post_message(events.Key(key, {"slash": "/", "space": " "}.get(key, key)))
        tensors = app.screen.query_one("#tensors", VirtualList)
        await until(pilot, lambda: app.screen.query_one("#filter", Input).value == "proj x")
        await settled(pilot)
        assert [tensor.name for tensor in tensors.rows] == [f"model.h.{i}.attn.proj.weight" for i in range(4)]
        await pilot.press("enter", "t")
        await settled(pilot)
        assert "23 entries" in seen_text(app), "the keys mean views again"


async def test_every_column_sorts_by_its_title_and_says_so(opens: Callable[..., None]) -> None:
    opens(small_gpt())
    app = ScreenApp(InspectScreen("/run/a.pt"))
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("n")
        await pilot.pause()
        tensors = app.screen.query_one("#tensors", VirtualList)
        top = next(number for number, text in enumerate(seen(app)) if "dtype" in text)
        for title in ("name", "shape", "dtype", "elements", "size"):
            for pressed, mark in enumerate("↑↓" if title not in ("elements", "size") else "↓↑"):
                await pilot.click(offset=(seen(app)[top].index(title), top))
                await pilot.pause()
                assert f"{title} {mark}" in seen(app)[top], (title, pressed, seen(app)[top])
        assert tensors.rows[0].num_elements == 128, "the smallest first"
        await pilot.press("Z")
        assert "size ↓" in seen(app)[top]
        assert tensors.rows[0].shape == (512, 128)
        assert tensors.cursor == 0


async def test_what_a_filter_found_is_shown_in_its_place_when_the_filter_goes(opens: Callable[..., None]) -> None:
    opens(small_gpt())
    app = ScreenApp(InspectScreen("/run/a.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("slash", *"3.mlp.up", "enter")
        tree = app.screen.query_one("#tree", VirtualList)
        assert [node.path for node in tree.rows] == ["model.h.3.mlp.up.weight"]
        await pilot.press("escape")
        assert tree.cursor_row is not None
        assert (tree.cursor_row.path, tree.cursor_row.depth) == ("model.h.3.mlp.up.weight", 4)


async def test_the_tree_is_sorted_by_key_and_by_title(opens: Callable[..., None]) -> None:
    opens(small_gpt())
    app = ScreenApp(InspectScreen("/run/a.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        tree = app.screen.query_one("#tree", VirtualList)
        assert [node.label for node in tree.rows[:2]] == ["step", "model"]
        await pilot.press("z")
        assert "largest first" in seen_text(app)
        assert tree.rows[0].label == "model"
        assert tree.cursor_row is not None
        assert tree.cursor_row.label == "model", "the cursor stays on what it was on"
        top = next(number for number, line in enumerate(seen(app)) if "size ↓" in line)
        await pilot.click(offset=(seen(app)[top].index("name"), top))
        await pilot.pause()
        assert [node.label for node in tree.rows if node.depth == 0] == ["args", "model", "step"]
        await pilot.press("Z")
        assert [node.label for node in tree.rows if node.depth == 0] == ["step", "model", "args"]


async def test_a_directory_shows_what_each_file_is_and_what_is_missing(tmp_path: Path) -> None:
    frameworks.hf_trainer(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    app = ScreenApp(InspectScreen(str(tmp_path)))
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert "8 files · 1 missing · hf-trainer" in seen(app)[0]
        rows = [" ".join(line.split()) for line in seen(app)]
        assert any(row.startswith("model-00002-of-00002.safetensors MISSING") for row in rows)
        assert any("optimizer.pt optimizer" in row for row in rows)
        await pilot.press("n")
        await pilot.pause()
        top = next(line for line in seen(app) if "dtype" in line)
        assert "file" in top
        await pilot.press("slash", *"optimizer.pt exp_avg_sq", "enter")
        tensors = app.screen.query_one("#tensors", VirtualList)
        assert {tensor.file for tensor in tensors.rows} == {"optimizer.pt"}
        await pilot.press("p")
        await pilot.pause()
        assert "weights_only=True refuses it: 1 name" in seen_text(app)


async def test_a_file_that_could_not_be_read_has_a_row_that_says_so(tmp_path: Path) -> None:
    frameworks.hf_trainer(tmp_path)
    (tmp_path / "optimizer.pt").write_bytes(bytes(5000))
    app = ScreenApp(InspectScreen(str(tmp_path)))
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert "9 files · 1 unreadable · hf-trainer" in seen(app)[0]
        rows = [" ".join(line.split()) for line in seen(app)]
        assert any(row.startswith("optimizer.pt UNREADABLE") for row in rows), rows
        await pilot.press("home")
        await settled(pilot)
        assert "nothing could be made of it: f says why" in seen_text(app)


async def test_the_screen_lives_while_a_file_is_opened_and_esc_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def slow(path: str) -> None:
        assert go.wait(120)

    monkeypatch.setattr(inspect_module, "open_for_inspection", slow)
    app = ScreenApp(InspectScreen("/run/slow.pt"))
    try:
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: "opening ..." in seen_text(app) and "s    Esc leaves it" in seen_text(app))
            for key in ("n", "z", "slash", "t"):
                await pilot.press(key)
            assert "opening ..." in seen_text(app)
            await pilot.press("escape")
            assert app.has_ended
            go.set()
    finally:
        go.set()


async def test_the_key_line_presses_its_keys_and_follows_the_view(opens: Callable[..., None]) -> None:
    opens(small_gpt())
    app = ScreenApp(InspectScreen("/run/a.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("s")
        await pilot.pause()
        assert "z sort" not in seen(app)[-1], "settings keep their order"
        await pilot.press("n")
        await pilot.pause()
        assert "z sort" in seen(app)[-1]
        await pilot.click(offset=(seen(app)[-1].index("z sort"), 23))
        await pilot.pause()
        assert "largest first" in seen_text(app)


async def test_nothing_makes_words_of_a_whole_checkpoint(opens: Callable[..., None]) -> None:
    """Textual's workers make a repr() of their work; of 100,000 tensors that is 250 MB and a second."""

    class Counted(Checkpoint):
        made = 0

        def __repr__(self) -> str:
            Counted.made += 1
            return "checkpoint"

    by_hand = small_gpt()
    opens(Counted(**{name: getattr(by_hand, name) for name in Checkpoint.__dataclass_fields__}))
    app = ScreenApp(InspectScreen("/run/a.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("n", "x")
        await settled(pilot)
    assert Counted.made == 0


async def test_branches_open_and_close_by_keys_and_mouse(opens: Callable[..., None]) -> None:
    opens(small_gpt())
    app = ScreenApp(InspectScreen("/run/a.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        tree = app.screen.query_one("#tree", VirtualList)
        row = next(index for index, node in enumerate(tree.rows) if node.path == "model.h")
        tree.cursor = row
        before = len(tree.rows)
        await pilot.press("right")
        assert len(tree.rows) == before + 4
        await pilot.press("right", "left")
        assert tree.cursor == row, "left of a closed branch goes to what holds it"
        await pilot.press("enter")
        assert len(tree.rows) == before
        await pilot.click("#tree", offset=(6, row + 1))
        await pilot.pause()
        assert len(tree.rows) == before + 4


async def test_a_hundred_thousand_tensors_open_filter_and_draw_only_what_is_seen(opens: Callable[..., None]) -> None:
    opens(checkpoint_of([tensor_info(f"model.h.{i}.attn.qkv.weight") for i in range(100_000)]))
    app = ScreenApp(InspectScreen("/run/big.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("n")
        tensors = app.screen.query_one("#tensors", VirtualList)
        assert len(tensors.rows) == 100_000
        await pilot.press("slash")
        tensors.num_lines_rendered = 0
        app.screen.query_one("#filter", Input).value = "h.99999."
        await pilot.pause()
        assert [tensor.name for tensor in tensors.rows] == ["model.h.99999.attn.qkv.weight"]
        await pilot.press("escape")
        await pilot.pause()
        assert len(tensors.rows) == 100_000
        assert tensors.num_lines_rendered <= 6 * 24


@pytest.mark.parametrize("size", [(80, 24), (40, 12), (200, 60), (20, 5)])
async def test_hostile_texts_stay_text_at_every_size(opens: Callable[..., None], size: tuple[int, int]) -> None:
    opens(hostile_checkpoint())
    screen = InspectScreen("/run/[/closing]\x1b[2J.pt")
    app = ScreenApp(screen)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        for view in VIEW_KEYS:
            screen.action_view(view)
            app.screen.query_one(f"#{view}", VirtualList).cursor = 3
            await pilot.pause()
            assert_nothing_hostile(app)
        if size == (80, 24):
            assert "DANGEROUS" in seen_text(app)
            assert "[/closing]" in seen_text(app)


async def test_name_shape_and_dtype_fit_in_80_columns_and_in_40(opens: Callable[..., None]) -> None:
    opens(small_gpt())
    app = ScreenApp(InspectScreen("/run/a.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("n", "down", "down", "down")
        row = next(line for line in seen(app) if line.startswith("> "))
        assert "model.h.0.attn.qkv.weight" in row
        assert "384 x 128" in row
        assert "float32" in row
        assert "196.6 kB" in row
        await pilot.resize_terminal(40, 12)
        await pilot.pause()
        row = next(line for line in seen(app) if line.startswith("> "))
        assert "384 x 128" in row
        assert "float32" in row


@pytest.mark.parametrize(
    "error",
    [
        CkptError("Not found", "there is nothing at /run/[/x].pt", "Check the path."),
        CkptError("Damaged checkpoint", "central directory not found\x1b[2J", "Validate the backup."),
    ],
)
async def test_a_file_that_does_not_open_is_explained_in_place(opens: Callable[..., None], error: CkptError) -> None:
    opens(error)
    app = ScreenApp(InspectScreen("/run/x.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert f"✖ {error.title}" in seen_text(app)
        assert "filter" not in seen(app)[-1], "there is nothing to filter"
        assert error.hint in seen_text(app)
        assert_nothing_hostile(app)
        for key in ("t", "n", "slash", "z", "x", "right", "left", "enter"):
            await pilot.press(key)
        await pilot.press("escape")
        assert app.has_ended


async def test_a_bug_of_ours_is_shown_and_does_not_end_the_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: str) -> None:
        raise RuntimeError("boom [/x]\x1b[2J")

    monkeypatch.setattr(inspect_module, "open_for_inspection", broken)
    app = ScreenApp(InspectScreen("/run/x.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "✖ A bug in ckpt-tui" in seen_text(app)
        assert "RuntimeError: boom [/x]\\x1b[2J" in seen_text(app)


async def test_a_real_path_that_is_not_there(tmp_path: Path) -> None:
    app = ScreenApp(InspectScreen(str(tmp_path / "nothing.pt")))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "nothing.pt" in seen_text(app)
        assert "could not be opened" in seen_text(app)


async def test_a_terminal_without_glyphs_is_sent_none(
    opens: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    opens(small_gpt())
    monkeypatch.setattr(values, "tensor_statistics", lambda *_, **__: STATISTICS)
    screen = InspectScreen("/run/a.pt")
    app = ScreenApp(screen)
    app.look = theme.choose({"TERM": "linux"})

    def assert_ascii() -> None:
        # The last column is the scrollbar, which Textual draws itself.
        assert all(line[:-1].isascii() for line in seen(app)), seen_text(app)

    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        for view in VIEW_KEYS:
            screen.action_view(view)
            await pilot.pause()
            assert_ascii()
        screen.action_view("tensors")
        screen.action_statistics()
        await settled(pilot)
        assert "x nan 2" in seen_text(app)
        assert_ascii()
        screen._show_problem(CkptError("Damaged checkpoint", "cut", "Look."))
        await pilot.pause()
        assert "x Damaged checkpoint" in seen_text(app)
        assert_ascii()


@pytest.mark.parametrize("num_bytes", [0, 5, 40, 110])
async def test_a_real_file_that_was_cut_is_explained(tmp_path: Path, num_bytes: int) -> None:
    path = tmp_path / "cut.safetensors"
    write_safetensors(path, [1.0, 2.0, 3.0, 4.0])
    path.write_bytes(path.read_bytes()[:num_bytes])
    app = ScreenApp(InspectScreen(str(path)))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "✖" in seen(app)[1] + seen(app)[5], seen_text(app)
        assert "A bug in ckpt-tui" not in seen_text(app)


@pytest.mark.parametrize("words", ["日本語", "x" * 90])
def test_how_many_rows_a_filter_found_is_seen_whatever_the_filter(words: str) -> None:
    rule = rule_content(words, "2 of 64", 80).plain
    assert rule.endswith(" 2 of 64 ─")
    assert cell_width(rule) == 80


async def test_on_40_columns_names_get_what_short_shapes_leave(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"m.tokens.weight": torch.ones(2), "m.places.weight": torch.ones(2)}, path)
    app = ScreenApp(InspectScreen(str(path)))
    async with app.run_test(size=(40, 12)) as pilot:
        await settled(pilot)
        await pilot.press("n")
        await settled(pilot)
        assert "tokens.weight" in seen_text(app).partition("shape")[2], seen_text(app)
        assert "places.weight" in seen_text(app)


async def test_of_a_directory_the_model_is_shown_first(tmp_path: Path) -> None:
    frameworks.hf_trainer(tmp_path)  # its optimizer.pt is the largest
    app = ScreenApp(InspectScreen(str(tmp_path)))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "> ▾ model-0000" in seen_text(app), seen_text(app)
