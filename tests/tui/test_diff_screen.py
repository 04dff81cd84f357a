"""The diff screen: settings with their effect, tensors most changed first, everything else; or that it is the same."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ckpt_tui.checkpoints.diff import Diff, PartChange
from ckpt_tui.checkpoints.hparams import Effect, HparamChange
from ckpt_tui.checkpoints.module_changes import ModuleChange
from ckpt_tui.checkpoints.state_diff import ValueChange
from ckpt_tui.checkpoints.tensor_changes import TensorChange
from ckpt_tui.errors import CkptError
from ckpt_tui.tui.screens.diff import DiffScreen
from ckpt_tui.tui.screens.work import worker_is_cancelled
from ckpt_tui.tui.widgets.virtual_list import VirtualList
from tests.builders.checkpoints_by_hand import HOSTILE_NAMES
from tests.builders.screen_app import ScreenApp, assert_nothing_hostile, seen_text, settled, until

Shape = tuple[int, ...]


def change(name: str, relative: float | None, kind: str = "value", **fields: Any) -> TensorChange:
    return TensorChange(name, kind, (8, 4), (8, 4), "float32", "float32", relative, 0.01, 0.999, 128, **fields)


def diff(**fields: Any) -> Diff:
    defaults: dict[str, Any] = {
        "path_a": "/run/a.pt", "path_b": "/run/b.pt", "hyperparameters": (), "tensors": (), "other": (), "num_other": 0,
        "with_values": True, "bytes_read": 2_000_000, "seconds": 0.1,
    }  # fmt: skip
    return Diff(**{**defaults, **fields})


DIFFERENT = diff(
    hyperparameters=(
        HparamChange("n_layer", "changed", 4, 6, Effect.IMPOSSIBLE),
        HparamChange("batch_size", "changed", 32, 16, Effect.EXACTNESS),
        HparamChange("lr", "changed", 6e-4, 3e-4, Effect.COURSE),
        HparamChange("tags", "added", None, ["x"], Effect.SAFE),
    ),
    tensors=(
        TensorChange("model.new", "added", None, (4,), None, "float32"),
        change("model.most", 0.5),
        change("model.least", 0.001),
        change("model.same", 0.0, "same"),
    ),
    other=(ValueChange("step", "changed", 8000, 8250),),
    num_other=1,
)


@pytest.fixture
def compares(monkeypatch: pytest.MonkeyPatch) -> Callable[[Diff | CkptError], None]:
    def give(what: Diff | CkptError) -> None:
        def compare(self: DiffScreen, path_a: str, path_b: str) -> Diff:
            if isinstance(what, CkptError):
                raise what
            return what

        monkeypatch.setattr(DiffScreen, "_compare", compare)

    return give


async def test_on_40_columns_tensors_are_told_apart(compares: Callable[..., None]) -> None:
    compares(diff(tensors=(change("tokens.weight", 0.5), change("places.weight", 0.4))))
    app = ScreenApp(DiffScreen("/run/a.pt", "/run/b.pt"))
    async with app.run_test(size=(40, 12)) as pilot:
        await settled(pilot)
        assert "> tokens.weight" in seen_text(app), seen_text(app)
        assert "  places.weight" in seen_text(app)


async def test_columns_are_as_wide_as_what_they_hold(compares: Callable[..., None]) -> None:
    setting = HparamChange("scaler_growth_interval", "changed", 500, 2000, Effect.COURSE)
    value = ValueChange("loader.sampler.generator.offset", "changed", 17, 4)
    compares(diff(hyperparameters=(setting,), other=(value,), num_other=1))
    app = ScreenApp(DiffScreen("/run/a.pt", "/run/b.pt"))
    async with app.run_test(size=(120, 24)) as pilot:
        await settled(pilot)
        row = next(text for text in seen_text(app).splitlines() if "scaler_growth" in text)
        assert "scaler_growth_interval" in row
        assert 0 < row.index("2000") - row.index("500") < 20, row
        await pilot.press("o")
        row = next(text for text in seen_text(app).splitlines() if "loader." in text)
        assert row.index("17") < row.index(" 4 ") < row.index("17") + 24, row


async def test_a_filter_that_nothing_holds_says_nothing_of_the_checkpoints(compares: Callable[..., None]) -> None:
    compares(DIFFERENT)
    app = ScreenApp(DiffScreen("/run/a.pt", "/run/b.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("slash", *"zz[", "enter")
        for key in "snmo":
            await pilot.press(key)
            await settled(pilot)
            assert "nothing here holds `zz[`" in seen_text(app), seen_text(app)
            assert "the same" not in seen_text(app), "it would be taken for the result"
        await pilot.press("escape")
        await settled(pilot)
        assert "step" in seen_text(app)


async def test_tensors_and_modules_are_sorted_by_change_name_and_size(compares: Callable[..., None]) -> None:
    def tensor(name: str, relative: float, size_bytes: int) -> TensorChange:
        return replace(change(name, relative), size_bytes=size_bytes)

    tensors = (tensor("h.2.w", 0.9, 10), tensor("h.10.w", 0.5, 30), tensor("h.1.w", 0.1, 20))
    modules = (ModuleChange("h.10", 1, 1, 0.9, 0.1), ModuleChange("h.2", 3, 1, 0.5, 0.1))
    compares(diff(tensors=tensors, modules=modules))
    app = ScreenApp(DiffScreen("/run/a.pt", "/run/b.pt"))
    async with app.run_test(size=(120, 24)) as pilot:
        await settled(pilot)

        def shown(view: str) -> list[str]:
            return [row.name for row in app.screen.query_one(f"#{view}", VirtualList).rows]

        await pilot.press("s")
        await settled(pilot)
        assert "z sort" not in seen_text(app), "settings have an order of their own"
        await pilot.press("n")
        await settled(pilot)
        assert "z sort" in seen_text(app)
        by_change = ["h.2.w", "h.10.w", "h.1.w"]
        assert shown("tensors") == by_change
        await pilot.press("z")
        await settled(pilot)
        assert shown("tensors") == ["h.1.w", "h.2.w", "h.10.w"], "as a person counts"
        assert "tensor ↑" in seen_text(app)
        await pilot.press("m")
        assert shown("modules") == ["h.2", "h.10"]
        await pilot.press("z")
        assert shown("modules") == ["h.2", "h.10"]
        await pilot.press("n")
        assert shown("tensors") == ["h.10.w", "h.1.w", "h.2.w"]
        await pilot.press("Z")
        assert shown("tensors") == ["h.2.w", "h.1.w", "h.10.w"]
        await pilot.press("z", "Z")
        await settled(pilot)
        assert shown("tensors") == by_change[::-1]
        assert "rel. L2 ↑" in seen_text(app)
        await pilot.click("#tensors", offset=(4, 0))
        assert shown("tensors") == ["h.1.w", "h.2.w", "h.10.w"]
        await pilot.press("slash", *"2", "enter")
        assert shown("tensors") == ["h.2.w"]


async def test_a_letter_fills_the_list_that_is_shown_and_the_others_when_they_are(
    compares: Callable[..., None],
) -> None:
    """Of 100,000 tensors, and their modules, every letter cost a third of a second."""
    compares(DIFFERENT)
    app = ScreenApp(DiffScreen("/run/a.pt", "/run/b.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("n")
        before = {view: app.screen.query_one(f"#{view}", VirtualList).rows for view in ("settings", "other")}
        await pilot.press("slash", *"step", "enter")
        assert all(app.screen.query_one(f"#{view}", VirtualList).rows is rows for view, rows in before.items())
        assert len(app.screen.query_one("#tensors", VirtualList).rows) == 0
        await pilot.press("s")
        assert len(app.screen.query_one("#settings", VirtualList).rows) == 0
        await pilot.press("o")
        assert [row.path for row in app.screen.query_one("#other", VirtualList).rows] == ["step"]


async def test_settings_come_with_what_they_do_to_a_resume(compares: Callable[..., None]) -> None:
    compares(DIFFERENT)
    app = ScreenApp(DiffScreen("/run/a.pt", "/run/b.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        text = seen_text(app)
        assert "≠ 4 settings, 3 of 4 tensors, 1 other value differ" in text
        for words in ("impossible", "breaks exactness", "changes the course", "(not there)", "settings 4"):
            assert words in text
        assert "the resume fails" in text, "the explanation of the one under the cursor"
        await pilot.press("n")
        text = seen_text(app)
        assert text.index("model.new") < text.index("model.most") < text.index("model.least")
        assert "model.same" not in text
        await pilot.press("a")
        assert "model.same" in seen_text(app)
        await pilot.press("slash", *"least", "enter")
        assert "model.most" not in seen_text(app)
        assert "model.least" in seen_text(app)
        assert "only names with: least" in seen_text(app)
        await pilot.press("escape", "o")
        assert "8250" in seen_text(app)
        await pilot.press("x")
        await settled(pilot)
        assert (app.first_screen.path_a, app.first_screen.path_b) == ("/run/b.pt", "/run/a.pt")
        await pilot.press("escape")
        assert app.has_ended


async def test_two_that_are_the_same_say_so(compares: Callable[..., None]) -> None:
    compares(diff(tensors=(change("model.a", 0.0, "same"),)))
    app = ScreenApp(DiffScreen("/run/a.pt", "/other/a.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "= the same in every setting, tensor and value" in seen_text(app)
        assert "/other/a.pt" in seen_text(app), "the same name in two directories needs the path"


async def test_what_could_not_be_compared_is_not_called_the_same(compares: Callable[..., None]) -> None:
    compares(diff(tensors=(change("model.a", None, "unknown", reason="packed dtype"),)))
    app = ScreenApp(DiffScreen("/run/a.pt", "/run/b.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "= the same" not in seen_text(app)
        assert "1 could not be compared" in seen_text(app)
        assert "packed dtype" in seen_text(app)


async def test_an_error_is_explained_in_place(compares: Callable[..., None]) -> None:
    compares(CkptError("Not found", "there is nothing at /run/[/x].pt", "Check the path."))
    app = ScreenApp(DiffScreen("/run/a.pt", "/run/[/x].pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "✖ Not found" in seen_text(app)
        for key in ("n", "o", "s", "a", "x"):
            await pilot.press(key)
        await pilot.press("escape")
        assert app.has_ended


@pytest.mark.parametrize("size", [(80, 24), (40, 12), (20, 5)])
async def test_hostile_texts_stay_text(compares: Callable[..., None], size: tuple[int, int]) -> None:
    compares(
        diff(
            hyperparameters=tuple(HparamChange(name, "changed", name, 10**6000, Effect.SAFE) for name in HOSTILE_NAMES),
            tensors=tuple(change(name, float("inf"), reason=name) for name in HOSTILE_NAMES),
            other=tuple(ValueChange(name, "changed", name, name) for name in HOSTILE_NAMES),
            num_other=7,
        )
    )
    screen = DiffScreen("/run/\x1b[2J.pt", "/run/[/x].pt")
    app = ScreenApp(screen)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        for view in ("settings", "tensors", "other"):
            screen.action_view(view)
            for index in range(len(HOSTILE_NAMES)):
                app.screen.query_one(f"#{view}", VirtualList).cursor = index
                await pilot.pause()
                assert_nothing_hostile(app)


async def test_leaving_stops_the_comparing(monkeypatch: pytest.MonkeyPatch) -> None:
    started, stopped = threading.Event(), threading.Event()

    def compare(self: DiffScreen, path_a: str, path_b: str) -> Diff:
        is_cancelled = worker_is_cancelled()
        started.set()
        deadline = time.monotonic() + 120
        while not is_cancelled() and time.monotonic() < deadline:
            time.sleep(0.002)
        if is_cancelled():
            stopped.set()
        return DIFFERENT

    monkeypatch.setattr(DiffScreen, "_compare", compare)
    app = ScreenApp(DiffScreen("/run/a.pt", "/run/b.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, started.is_set)
        app.pop_screen()
        await until(pilot, stopped.is_set)


async def test_two_real_files_are_compared(tmp_path: Path) -> None:
    for name, last in (("a", 4.0), ("b", 5.0)):
        header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
        content = struct.pack("<Q", len(header)) + header + struct.pack("<4f", 1.0, 2.0, 3.0, last)
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    app = ScreenApp(DiffScreen(str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "1 of 1 tensor" in seen_text(app), "opens on the tensors, where the difference is"
        assert "0.183" in seen_text(app), "1 / sqrt(1 + 4 + 9 + 16)"
        assert "1.000" in seen_text(app)


def of_modules() -> Diff:
    names = [f"model.h.{i}.{part}.weight" for i in range(12) for part in ("attn", "mlp")]
    modules = [ModuleChange("", 24, 2, 0.02, 0.5), ModuleChange("h", 24, 2, 0.02, 0.5)]
    modules += [ModuleChange(f"h.{i}", 2, 2 if i == 1 else 0, 0.25 if i == 1 else 0.0, 0.5) for i in (1, *range(2, 12))]
    modules += [ModuleChange(f"h.1.{part}", 1, 1, 0.2, 0.5) for part in ("attn", "mlp")]
    return diff(
        tensors=tuple(change(name, 0.2 if "h.1." in name else 0.1) for name in names),
        modules=tuple(modules),
        parts=(PartChange("optimizer", "a", 48, 3_000_000), PartChange("progress", "a", names=("step", "epoch"))),
        prefix_b="module._orig_mod.",
    )


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (40, 12)])
async def test_modules_and_what_only_one_side_has(compares: Callable[..., None], size: tuple[int, int]) -> None:
    compares(of_modules())
    app = ScreenApp(DiffScreen("/run/a.pt", "/run/b.pt"))
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        if size[0] >= 80:
            assert "names of b without module._orig_mod.; only in a: optimizer, progress" in seen_text(app)
        await pilot.press("m")
        text = seen_text(app)
        assert "h.1 " in text, "modules at the depth where there are several"
        assert "2 of 2" in text
        assert "deeper" in text or size[0] < 80
        assert "h.2 " not in text, "only those that changed"
        await pilot.press("plus")
        assert "h.1.attn" in seen_text(app)
        assert "h.1.mlp" in seen_text(app)
        await pilot.press("plus", "minus", "minus", "minus", "minus")
        assert "hole model)" in seen_text(app) or size[0] < 80
        await pilot.press("plus", "plus", "a")
        assert "h.2 " in seen_text(app) or size[1] < 24
        await pilot.press("home", "enter")
        await pilot.pause()
        text = seen_text(app)
        assert "h.1.attn" in text, "Enter on a module shows its tensors"
        assert "h.11." not in text
        await pilot.press("escape", "o")
        text = seen_text(app)
        assert "only in a" in text
        assert "48 tensors" in text or size[0] < 80


async def test_a_directory_and_a_file_are_compared(tmp_path: Path) -> None:
    names = [f"layers.{i}.w" for i in range(4)]
    shards = tmp_path / "sharded"
    shards.mkdir()
    whole = {}
    for number, half in enumerate((names[:2], names[2:]), start=1):
        header = {n: {"dtype": "F32", "shape": [2], "data_offsets": [8 * i, 8 * i + 8]} for i, n in enumerate(half)}
        raw = json.dumps(header).encode()
        content = struct.pack("<Q", len(raw)) + raw + struct.pack("<4f", *[float(number)] * 4)
        (shards / f"model-0000{number}-of-00002.safetensors").write_bytes(content)
        whole |= {f"model.{n}": number for n in half}
    index = {n: f"model-0000{1 + (i > 1)}-of-00002.safetensors" for i, n in enumerate(names)}
    (shards / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    header = {n: {"dtype": "F32", "shape": [2], "data_offsets": [8 * i, 8 * i + 8]} for i, n in enumerate(whole)}
    raw = json.dumps(header).encode()
    numbers = [float(value) for value in whole.values() for _ in range(2)]
    numbers[-1] += 1
    (tmp_path / "one.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + struct.pack("<8f", *numbers))
    app = ScreenApp(DiffScreen(str(shards), str(tmp_path / "one.safetensors")))
    async with app.run_test(size=(100, 30)) as pilot:
        await settled(pilot)
        text = seen_text(app)
        assert "1 of 4 tensors" in text
        assert "deeper" not in text, "a key of another view"
        assert "names of b without model." in text
        assert "layers.3.w" in text
