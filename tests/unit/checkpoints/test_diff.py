"""Two checkpoints compared: settings, tensors, other state."""

from __future__ import annotations

import dataclasses
import threading
import tracemalloc
import zlib
from pathlib import Path

import pytest
import torch

from ckpt_tui.checkpoints import state_diff, threads
from ckpt_tui.checkpoints.diff import Diff, diff_checkpoints
from ckpt_tui.checkpoints.model import Checkpoint, OpaqueObject
from ckpt_tui.errors import Cancelled, CkptError
from tests.builders.pace import cpu_time
from tests.builders.raw_tensors import raw_checkpoint


def with_checksums(checkpoint: Checkpoint) -> Checkpoint:
    content = Path(checkpoint.path).read_bytes()
    for key, storage in checkpoint.storages.items():
        assert storage.offset is not None
        crc = zlib.crc32(content[storage.offset : storage.offset + storage.size_bytes])
        checkpoint.storages[key] = dataclasses.replace(storage, crc32=crc)
    return checkpoint


def of_state(state: object, hyperparameters: dict[str, object] | None = None) -> Checkpoint:
    return Checkpoint("", "raw", 0, state=state, hyperparameters=hyperparameters or {})


def other(a: object, b: object) -> list[tuple[str, str, object, object]]:
    diff = diff_checkpoints(of_state(a), of_state(b))
    assert diff.num_other == len(diff.other)
    return [(c.path, c.change, c.a, c.b) for c in diff.other]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Checkpoint, Checkpoint]:
    torch.manual_seed(0)
    a = {name: torch.randn(20, 30) for name in ("same", "little", "much", "shape", "dtype", "gone")}
    b = {
        "same": a["same"].clone(),
        "little": a["little"] + 1e-3,
        "much": -a["much"],
        "shape": a["shape"][:10].clone(),
        "dtype": a["dtype"].to(torch.bfloat16),
        "new": torch.zeros(3),
    }
    return raw_checkpoint(tmp_path / "a", a), raw_checkpoint(tmp_path / "b", b)


def test_tensors_by_kind_and_size_of_change(pair: tuple[Checkpoint, Checkpoint]) -> None:
    diff = diff_checkpoints(*pair)
    assert [(t.name, t.change) for t in diff.tensors] == [
        ("gone", "removed"), ("new", "added"), ("shape", "shape"), ("dtype", "dtype"),
        ("much", "value"), ("little", "value"), ("same", "same"),
    ]  # fmt: skip
    of = {t.name: t for t in diff.tensors}
    assert of["much"].relative_l2 == pytest.approx(2.0)
    assert of["much"].cosine == pytest.approx(-1.0)
    assert of["little"].max_abs == pytest.approx(1e-3, rel=1e-3)
    assert of["same"].relative_l2 == 0.0
    assert 0 < (of["dtype"].relative_l2 or 0) < 1e-2
    assert (of["shape"].shape_a, of["shape"].shape_b, of["shape"].relative_l2) == ((20, 30), (10, 30), None)
    assert (of["new"].shape_a, of["new"].shape_b, of["gone"].dtype_b) == (None, (3,), None)
    assert not diff.is_same
    assert len(diff.changed_tensors) == 6


def test_weights_come_before_the_optimizer_which_always_changes_more(tmp_path: Path) -> None:
    names = ("optimizer.state.0.exp_avg", "rng_state.torch", "model.w", "ema.w", "model.same")
    a = raw_checkpoint(tmp_path / "a", {name: torch.ones(4) for name in names})
    grown = {name: torch.full((4,), 1.0 if name == "model.same" else 9.0 - i) for i, name in enumerate(names)}
    diff = diff_checkpoints(a, raw_checkpoint(tmp_path / "b", grown))
    assert [t.name for t in diff.tensors] == [
        "model.w", "ema.w", "optimizer.state.0.exp_avg", "rng_state.torch", "model.same",
    ]  # fmt: skip


def test_a_checkpoint_is_the_same_as_itself(pair: tuple[Checkpoint, Checkpoint]) -> None:
    diff = diff_checkpoints(pair[0], pair[0])
    assert diff.is_same
    assert diff.bytes_read == 2 * 6 * 20 * 30 * 4


def test_equal_checksums_need_no_read(pair: tuple[Checkpoint, Checkpoint]) -> None:
    a, b = map(with_checksums, pair)
    Path(b.path).unlink()  # only a read would notice
    diff = diff_checkpoints(a, b)
    of = {t.name: t for t in diff.tensors}
    assert of["same"].change == "same"
    assert of["little"].change == "unknown"
    assert "nothing at" in of["little"].reason
    assert diff_checkpoints(a, a).bytes_read == 0


def test_equal_checksums_of_other_views_are_read(tmp_path: Path) -> None:
    square = torch.randn(8, 8)
    a = with_checksums(raw_checkpoint(tmp_path / "a", {"t": square}))
    b = with_checksums(raw_checkpoint(tmp_path / "b", {"t": square.T}))
    assert diff_checkpoints(a, b).tensors[0].change == "value"


def test_a_checksum_of_zero_proves_nothing(tmp_path: Path) -> None:
    checkpoints = []
    for name, tensor in (("a", torch.zeros(4)), ("b", torch.ones(4))):
        checkpoint = raw_checkpoint(tmp_path / name, {"t": tensor})
        checkpoint.storages["data/0"] = dataclasses.replace(checkpoint.storages["data/0"], crc32=0)
        checkpoints.append(checkpoint)
    assert diff_checkpoints(*checkpoints).tensors[0].change == "value"


def test_without_values(pair: tuple[Checkpoint, Checkpoint]) -> None:
    diff = diff_checkpoints(*pair, with_values=False)
    assert [t.change for t in diff.tensors] == ["removed", "added", "shape", "dtype", "unknown", "unknown", "unknown"]
    assert diff.bytes_read == 0
    # Nothing was found to differ, and nothing was claimed.
    same = diff_checkpoints(pair[0], pair[0], with_values=False)
    assert same.is_same
    assert {t.change for t in same.tensors} == {"unknown"}


def test_tied_tensors_are_read_once(tmp_path: Path) -> None:
    tensors = []
    for number in (1.0, 2.0):
        shared = torch.full((100,), number)
        tensors.append({"wte": shared, "lm_head": shared})
    diff = diff_checkpoints(raw_checkpoint(tmp_path / "a", tensors[0]), raw_checkpoint(tmp_path / "b", tensors[1]))
    assert [(t.name, t.relative_l2) for t in diff.tensors] == [("lm_head", 1.0), ("wte", 1.0)]
    assert diff.bytes_read == 800


def test_packed_tensors_are_not_compared_and_it_is_said(tmp_path: Path) -> None:
    a, b = (raw_checkpoint(tmp_path / n, {"q": torch.zeros(4, dtype=torch.uint8)}) for n in "ab")
    for checkpoint in (a, b):
        checkpoint.tensors[0].dtype = "quint8"
    change = diff_checkpoints(a, b).tensors[0]
    assert (change.change, change.reason) == ("unknown", "q: quint8 is packed or quantized")


def test_hyperparameters_are_not_repeated_among_the_other_state() -> None:
    a = of_state({"args": {"lr": 1}, "step": 1}, {"lr": 1})
    b = of_state({"args": {"lr": 2}, "step": 2}, {"lr": 2})
    diff = diff_checkpoints(a, b)
    assert [c.key for c in diff.hyperparameters] == ["lr"]
    assert [c.path for c in diff.other] == ["step"]


def test_other_state_by_path() -> None:
    a = {"step": 1, "sched": {"last": [1, 2], "gone": 1}, "nan": float("nan"), 5: "x", "flag": True}
    b = {"step": 2, "sched": {"last": [1, 3], "new": None}, "nan": float("nan"), 5: "x", "flag": 1}
    assert other(a, b) == [
        ("flag", "changed", True, 1),
        ("sched.gone", "removed", 1, None),
        ("sched.last.1", "changed", 2, 3),
        ("sched.new", "added", None, None),
        ("step", "changed", 1, 2),
    ]


def test_a_long_list_of_numbers_is_one_value() -> None:
    a, b = list(range(625)), [0, *range(2, 626)]
    assert other({"rng": (3, tuple(a), None)}, {"rng": (3, tuple(b), None)}) == [
        ("rng.1", "changed", "625 items", "625 items, 624 different")
    ]
    assert other({"rng": a}, {"rng": tuple(a)}) == []
    assert other({"losses": a}, {"losses": [*a, 1]}) == [("losses", "changed", "625 items", "626 items, 1 different")]


def test_objects_and_kinds() -> None:
    def thing(name: str, **state: object) -> OpaqueObject:
        return OpaqueObject(name, state=dict(state))

    assert other({"o": thing("A", x=1)}, {"o": thing("A", x=2)}) == [("o.x", "changed", 1, 2)]
    assert other({"o": thing("A")}, {"o": thing("B")}) == [("o", "changed", "A", "B")]
    assert other({"o": {"x": 1}}, {"o": 3}) == [("o", "changed", "1 entry", 3)]
    assert other({"o": b"ab"}, {"o": b"cd"}) == [("o", "changed", "2 bytes", "2 bytes, of other content")]


def test_integers_of_thousands_of_digits() -> None:
    large = 10**6000
    assert [(c[1], c[2]) for c in other({"n": large, large: 1}, {"n": large + 1})] == [
        ("removed", 1), ("changed", "(19932-bit integer)"),
    ]  # fmt: skip


def test_cyclic_and_deep_states_end() -> None:
    def cyclic(number: int) -> dict[str, object]:
        state: dict[str, object] = {"n": number}
        state["self"] = state
        return state

    assert other(cyclic(1), cyclic(2)) == [("n", "changed", 1, 2)]
    a: dict[str, object] = {}
    b: dict[str, object] = {"x": 1}
    for _ in range(5000):
        a, b = {"d": a}, {"d": b}
    assert len(other(a, b)) == 1


def test_other_is_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = of_state({str(i): i for i in range(1000)}), of_state({str(i): -i - 1 for i in range(1000)})
    diff = diff_checkpoints(a, b)
    assert (len(diff.other), diff.num_other, diff.is_same) == (200, 1000, False)
    monkeypatch.setattr(state_diff, "_MAX_NODES", 100)
    with pytest.raises(CkptError, match="Too large"):
        diff_checkpoints(a, b)


def test_cancel(pair: tuple[Checkpoint, Checkpoint]) -> None:
    with pytest.raises(Cancelled):
        diff_checkpoints(*pair, is_cancelled=lambda: True)


def test_memory_is_flat_and_progress_adds_up(tmp_path: Path) -> None:
    zeros = torch.zeros(8_000_000)
    a, b = raw_checkpoint(tmp_path / "a", {"t": zeros}), raw_checkpoint(tmp_path / "b", {"t": zeros + 1})
    seen: list[int] = []
    tracemalloc.start()
    try:
        diff: Diff = diff_checkpoints(a, b, on_bytes=seen.append)
        assert tracemalloc.get_traced_memory()[1] < 24_000_000
    finally:
        tracemalloc.stop()
    assert sum(seen) == diff.bytes_read == 64_000_000


def test_a_history_that_grew_is_one_difference_and_not_one_a_row() -> None:
    def with_history(num_rows: int) -> Checkpoint:
        state = {"step": num_rows, "loss_history": [[step, 1.0 / (step + 1)] for step in range(num_rows)]}
        return Checkpoint(path="x", format="torch-zip", size_bytes=0, state=state)

    changes = diff_checkpoints(with_history(40), with_history(60)).other
    assert sorted((change.path, change.a, change.b) for change in changes) == [
        ("loss_history", "40 items", "60 items, 20 different"),
        ("step", 40, 60),
    ]


def test_names_of_a_million_dots(tmp_path: Path) -> None:
    checkpoints = []
    for letter in "ab":
        names = [f"{letter}{'.' * 400_000}", letter + ".x" * 200_000, ".".join(["model"] * 100_000)]
        checkpoints.append(raw_checkpoint(tmp_path / letter, {name: torch.ones(2) for name in names}))
    with cpu_time() as took:
        assert len(diff_checkpoints(*checkpoints).tensors) == 5
    assert took.seconds < 10


def test_cancelling_ends_every_thread(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.randn(200_000) for i in range(12)}
    a = raw_checkpoint(tmp_path / "a", tensors)
    b = raw_checkpoint(tmp_path / "b", {name: t + 1 for name, t in tensors.items()})
    num_before = threading.active_count()
    asked: list[str] = []

    def is_cancelled() -> bool:
        asked.append(threading.current_thread().name)
        return len(asked) > 10

    with pytest.raises(Cancelled):
        diff_checkpoints(a, b, is_cancelled=is_cancelled)
    assert threading.active_count() == num_before


def test_what_goes_wrong_in_a_thread_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {f"t{i}": torch.randn(200_000) for i in range(12)}
    a = raw_checkpoint(tmp_path / "a", tensors)
    b = raw_checkpoint(tmp_path / "b", {name: t + 1 for name, t in tensors.items()})
    seen: list[int] = []

    def count(num_bytes: int) -> None:
        seen.append(num_bytes)
        if len(seen) == 7:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        diff_checkpoints(a, b, on_bytes=count)


def test_several_threads_give_what_one_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {f"t{i}": torch.randn(150_000) for i in range(12)}
    a = raw_checkpoint(tmp_path / "a", tensors)
    b = raw_checkpoint(tmp_path / "b", {name: t * 1.01 for name, t in tensors.items()})
    several = diff_checkpoints(a, b)
    monkeypatch.setattr(threads, "MAX_THREADS", 1)
    assert diff_checkpoints(a, b).tensors == several.tensors
    assert several.bytes_read == 2 * 12 * 150_000 * 4


def test_bytes_of_one_length_are_told_apart() -> None:
    assert other({"blob": b"1" * 40}, {"blob": b"2" * 40}) == [
        ("blob", "changed", "40 bytes", "40 bytes, of other content")
    ]
