"""Salvage of real torch files, damaged in every way: what comes out is what went in, bit by bit, or named as lost."""

from __future__ import annotations

import hashlib
import io
import os
import random
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_tui.checkpoints.limits import DEFAULT_LIMITS
from ckpt_tui.checkpoints.salvage_facts import Source
from ckpt_tui.checkpoints.validate import validate_checkpoint
from ckpt_tui.checkpoints.writers.torch_zip import torch_zip_pieces
from ckpt_tui.checkpoints.zip_index import ZipEntry, read_zip_index
from ckpt_tui.checkpoints.zip_walk import ZipWalk
from ckpt_tui.errors import CkptError
from ckpt_tui.services.salvage import SalvagePlan, carry_out, plan_salvage
from tests.builders.salvage_states import are_same, every_kind, leaves, saved
from tests.builders.zip_files import Record, zip_bytes


@pytest.fixture(autouse=True)
def no_waiting_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def whole() -> bytes:
    return saved(every_kind())


@pytest.fixture(scope="module")
def truth(whole: bytes) -> dict[tuple[object, ...], object]:
    return dict(leaves(every_kind()))


def entries_of(path: Path, raw: bytes) -> list[ZipEntry]:
    path.write_bytes(raw)
    with open(path, "rb") as file:
        return read_zip_index(file.fileno(), len(raw), str(path)).entries


def salvaged(folder: Path, raw: bytes) -> tuple[SalvagePlan, Any]:
    """The plan, and what torch loads from what was written; None when nothing was."""
    broken, out = folder / "broken.pt", folder / "out.pt"
    broken.write_bytes(raw)
    out.unlink(missing_ok=True)
    plan = plan_salvage(str(broken), str(out))
    assert not out.exists()
    if plan.new_file is None:
        return plan, None
    carry_out(plan)
    assert broken.read_bytes() == raw
    assert sorted(entry.name for entry in folder.iterdir()) == ["broken.pt", "out.pt"]
    return plan, torch.load(out, weights_only=True)


def check(plan: SalvagePlan, state: Any, truth: dict[tuple[object, ...], object]) -> int:
    """Everything in `state` is as it was; every tensor is there, or named as lost. Gives how many are there."""
    found = dict(leaves(state))
    num_tensors = 0
    lost_names = {tensor.name for tensor in plan.lost}
    for place, value in truth.items():
        name = ".".join(str(key) for key in place)
        if not isinstance(value, torch.Tensor):
            if plan.has_names:
                assert found[place] == value or value == set() or type(value) is set, place
            continue
        got = found.get(place)
        if got is None:
            assert name in lost_names, f"{name} is neither there nor named as lost"
        else:
            assert isinstance(got, torch.Tensor)
            assert are_same(got, value), name
            assert name not in lost_names
            num_tensors += 1
    return num_tensors


def test_a_whole_file_is_written_again_as_it_was(
    whole: bytes, truth: dict[tuple[object, ...], object], tmp_path: Path
) -> None:
    plan, state = salvaged(tmp_path, whole)
    assert not plan.is_damaged
    assert (plan.lost, plan.left_out, plan.changed, plan.num_unvouched) == ([], [], [], 0)
    assert check(plan, state, truth) == sum(isinstance(value, torch.Tensor) for value in truth.values())
    assert list(state) == list(every_kind())
    # What was shared still is.
    tied = state["model"]["embed.weight"].untyped_storage().data_ptr()
    assert state["model"]["head.weight"].untyped_storage().data_ptr() == tied
    assert state[1][1][0].untyped_storage().data_ptr() == tied
    assert state["view"].untyped_storage().data_ptr() == state["grid"].untyped_storage().data_ptr()
    validation = validate_checkpoint(str(tmp_path / "out.pt"))
    assert (validation.levels["structure"], validation.levels["integrity"]) == ("pass", "pass")


# Every fourth border: three belong to a record, so each kind of them has its turn.
@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.long)])
def test_a_file_cut_at_the_border_of_every_record(
    whole: bytes, truth: dict[tuple[object, ...], object], tmp_path: Path, every: int
) -> None:
    entries = entries_of(tmp_path / "broken.pt", whole)
    storages = [entry for entry in entries if "/data/" in entry.name]
    descriptor_bytes = 16  # the form that torch writes for small records
    before = -1
    cuts = [
        cut for entry in entries[1:] if entry.offset is not None  # before the end of data.pkl there is nothing
        for cut in (entry.header_offset, entry.offset, entry.offset + entry.size_bytes)
    ]  # fmt: skip
    assert len(cuts) == 3 * len(entries[1:])
    for cut in cuts[::-every][::-1]:  # the last one always
        plan, state = salvaged(tmp_path, whole[:cut])
        num_there = sum((s.offset or 0) + s.size_bytes + descriptor_bytes <= cut for s in storages if s.size_bytes)
        if state is None:
            assert num_there == 0
            continue
        assert plan.is_damaged
        assert plan.progress["step"] == 500
        num_tensors = check(plan, state, truth)
        assert num_tensors >= before
        before = num_tensors
        assert sum(source.size_bytes > 0 for source in plan.examined.sources.values()) == num_there
        assert "model.bias" not in {tensor.name for tensor in plan.lost}  # it has no element that could be lost
        assert num_tensors + len(plan.lost) >= sum(isinstance(value, torch.Tensor) for value in truth.values())
    assert before > 40


def test_a_file_without_its_central_directory_gives_everything(
    whole: bytes, truth: dict[tuple[object, ...], object], tmp_path: Path
) -> None:
    start = whole.index(b"PK\x01\x02")
    for cut in (start, start + 1, start + 500, len(whole) - 1, len(whole) - 21):
        plan, state = salvaged(tmp_path, whole[:cut])
        assert plan.is_damaged
        assert plan.lost == []
        check(plan, state, truth)


def test_what_is_nothing_but_a_beginning_is_said(whole: bytes, tmp_path: Path) -> None:
    pickled = entries_of(tmp_path / "broken.pt", whole)[0]
    assert pickled.offset is not None
    for cut in (1, 30, pickled.offset, pickled.offset + pickled.size_bytes // 2):
        (tmp_path / "broken.pt").write_bytes(whole[:cut])
        if cut < pickled.offset:
            with pytest.raises(CkptError):
                plan_salvage(str(tmp_path / "broken.pt"), str(tmp_path / "out.pt"))
            continue
        plan = plan_salvage(str(tmp_path / "broken.pt"), str(tmp_path / "out.pt"))
        assert plan.new_file is None
        assert not plan.has_names


@pytest.mark.parametrize("seed", range(6))
def test_damage_anywhere_never_changes_what_comes_out(
    whole: bytes, truth: dict[tuple[object, ...], object], tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    num_whole = 0
    for _ in range(12):
        raw = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(raw))
            kind = chance.choice(("flip", "hole", "noise", "gone"))
            width = 1 if kind == "flip" else chance.choice((4, 64, 700))
            if kind == "flip":
                raw[at] ^= 1 << chance.randrange(8)
            elif kind == "hole":
                raw[at : at + width] = bytes(len(raw[at : at + width]))
            elif kind == "noise":
                raw[at : at + width] = chance.randbytes(len(raw[at : at + width]))
            else:
                del raw[at : at + width]
        if chance.random() < 0.4:
            del raw[chance.randrange(len(raw)) :]
        try:
            plan, state = salvaged(tmp_path, bytes(raw))
        except CkptError:
            continue
        if state is not None and plan.has_names:
            num_whole += check(plan, state, truth)
            assert plan.num_unvouched == 0
    assert num_whole > 0


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_the_damage_what_comes_out_is_what_went_in(
    whole: bytes, truth: dict[tuple[object, ...], object], tmp_path: Path, data: st.DataObject
) -> None:
    begin = data.draw(st.integers(0, len(whole) - 1), "begin")
    patch = data.draw(st.binary(min_size=1, max_size=48), "patch")
    front = data.draw(st.sampled_from([0, 0, 0, 1, 64, 4096]), "front")
    end = data.draw(st.one_of(st.just(len(whole)), st.integers(begin, len(whole))), "end")
    raw = bytearray(whole)
    raw[begin : begin + len(patch)] = patch
    try:
        plan, state = salvaged(tmp_path, bytes(raw[front:end]))
    except CkptError:
        return
    if state is not None and plan.has_names:
        check(plan, state, truth)
    elif state is not None:
        contents = {bytes(value.untyped_storage().tolist()) for value in _storages(truth)}
        for value in state.values():
            assert bytes(value.tolist()) in contents


def test_a_zip_that_lost_its_front_is_not_the_pickle_that_it_begins_with(whole: bytes, tmp_path: Path) -> None:
    raw = bytearray(whole)
    begin = raw.index(b"\x80\x02")  # of data.pkl, behind the header of its record
    raw[4367:4368] = b"."  # where the pickle seems to end
    plan, state = salvaged(tmp_path, bytes(raw[begin:]))
    assert plan.format == "torch-zip"
    assert not plan.has_names
    assert state


def _storages(truth: dict[tuple[object, ...], object]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in truth.values():
        if isinstance(value, torch.Tensor):
            if value.layout is torch.sparse_coo:
                found += [value.indices(), value.values()]
            elif value.layout is torch.sparse_csr:
                found += [value.crow_indices(), value.col_indices(), value.values()]
            else:
                found.append(value.detach())
    return found


def test_a_damaged_storage_is_lost_with_all_that_share_it_and_named(whole: bytes, tmp_path: Path) -> None:
    raw = bytearray(whole)
    tied = every_kind()["model"]["embed.weight"].numpy().tobytes()
    raw[whole.index(tied) + 5] ^= 0x10
    plan, state = salvaged(tmp_path, bytes(raw))
    assert "head.weight" not in state["model"]
    assert state["model"]["bias"].shape == (0, 3)
    assert state[1][1][0] is None  # a list keeps its places
    lost = {tensor.name: tensor for tensor in plan.lost}
    assert {"model.embed.weight", "model.head.weight", "1.1.0"} == set(lost)
    assert lost["model.head.weight"].shape == (5, 8)
    assert lost["model.head.weight"].size_bytes == 160
    assert "checksum" in lost["model.head.weight"].reason


def test_without_a_sound_pickle_the_storages_come_out_as_bytes(whole: bytes, tmp_path: Path) -> None:
    raw = bytearray(whole)
    pickled = entries_of(tmp_path / "broken.pt", whole)[0]
    assert pickled.offset is not None
    raw[pickled.offset + pickled.size_bytes // 2] ^= 1
    for cut in (len(raw), whole.index(b"PK\x01\x02")):
        plan, state = salvaged(tmp_path, bytes(raw[:cut]))
        assert not plan.has_names
        names = {entry.name.partition("/")[2] for entry in entries_of(tmp_path / "x", whole) if "/data/" in entry.name}
        (tmp_path / "x").unlink()
        assert set(state) == names
        assert all(value.dtype is torch.uint8 and value.dim() == 1 for value in state.values())
        assert any("data.pkl" in finding.message for finding in plan.examined.checkpoint.findings)


def test_a_damaged_local_header_costs_nothing_while_the_directory_stands(
    whole: bytes, truth: dict[tuple[object, ...], object], tmp_path: Path
) -> None:
    start = whole.index(b"PK\x01\x02")
    for name in ("/data.pkl", "/data/5", "/.data/serialization_id"):
        entry = next(e for e in entries_of(tmp_path / "broken.pt", whole) if e.name.endswith(name))
        raw = bytearray(whole)
        raw[entry.header_offset : entry.header_offset + 4] = b"\0\0\0\0"
        plan, state = salvaged(tmp_path, bytes(raw))
        assert plan.is_damaged
        assert plan.lost == []
        check(plan, state, truth)
    raw[start:] = b""
    plan, state = salvaged(tmp_path, bytes(raw))
    check(plan, state, truth)
    assert plan.lost == []


def test_a_damaged_local_header_without_the_directory_costs_its_record_only(
    whole: bytes, truth: dict[tuple[object, ...], object], tmp_path: Path
) -> None:
    entry = next(e for e in entries_of(tmp_path / "broken.pt", whole) if e.name.endswith("/data/5"))
    raw = bytearray(whole[: whole.index(b"PK\x01\x02")])
    raw[entry.header_offset : entry.header_offset + 4] = b"\0\0\0\0"
    plan, state = salvaged(tmp_path, bytes(raw))
    check(plan, state, truth)
    assert set(plan.examined.lost_storages) == {"data/5"}


def test_with_checksums_off_nothing_vouches_and_that_is_said(
    truth: dict[tuple[object, ...], object], tmp_path: Path
) -> None:
    raw = saved(every_kind(), with_checksums=False)
    assert zlib.crc32(b"3\n").to_bytes(4, "little") not in raw
    plan, state = salvaged(tmp_path, raw[: raw.index(b"PK\x01\x02")])
    assert plan.lost == []
    assert plan.num_unvouched > 40
    check(plan, state, truth)


def test_the_walk_finds_what_the_directory_says(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    entries = entries_of(path, whole)
    with open(path, "rb") as file:
        walk = ZipWalk(file.fileno(), len(whole), DEFAULT_LIMITS)
        found = list(walk.records())
    assert walk.found_directory
    assert walk.num_skipped_bytes == 0
    assert [(r.name, r.offset, r.size_bytes, r.crc32) for r in found] == [
        (e.name, e.offset, e.size_bytes, e.crc32) for e in entries
    ]


def test_an_archive_inside_a_tensor_is_not_taken_for_the_outer_one(tmp_path: Path) -> None:
    inner = saved({"w": torch.ones(5)})
    state = {"inner": torch.frombuffer(bytearray(inner), dtype=torch.uint8), "after": torch.arange(9)}
    raw = saved(state)
    plan, loaded = salvaged(tmp_path, raw[: raw.rindex(b"PK\x01\x02")])
    assert plan.lost == []
    assert bytes(loaded["inner"].tolist()) == inner
    assert loaded["after"].tolist() == list(range(9))


def test_without_any_hint_what_looks_like_a_record_inside_a_tensor_is_told_apart(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(5)}, tmp_path / "other.pt")  # its records begin with `other/`
    inner = (tmp_path / "other.pt").read_bytes() + b"PK\x07\x08" + bytes(20) + b"PK\x03\x04" + bytes(60)
    (tmp_path / "other.pt").unlink()
    raw = bytearray(saved({"inner": torch.frombuffer(bytearray(inner), dtype=torch.uint8), "after": torch.arange(9)}))
    raw[raw.index(b"inner")] ^= 1  # no names, and so no sizes
    plan, state = salvaged(tmp_path, bytes(raw[: raw.rindex(b"archive/data.pkl") - 46]))
    assert not plan.has_names
    assert bytes(state["data/0"].tolist()) == inner
    assert set(state) == {"data/0", "data/1"}


def test_a_record_that_is_there_twice_is_not_guessed(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(saved({"w": torch.ones(3), "x": torch.zeros(2)}))) as archive:
        pickled = archive.read("archive/data.pkl")
    names = ("data.pkl", "data/0", "data/1", "data/0")
    contents = (pickled, b"\x01" * 12, b"\x02" * 8, b"\x03" * 12)
    raw = zip_bytes(*(Record(f"archive/{name}", data) for name, data in zip(names, contents, strict=True)))
    plan, state = salvaged(tmp_path, raw[: raw.index(b"PK\x01\x02")])
    assert [(tensor.name, "twice" in tensor.reason) for tensor in plan.lost] == [("w", True)]
    assert set(state) == {"x"}


def test_a_storage_that_lost_its_checksum_is_lost_where_others_have_theirs(tmp_path: Path) -> None:
    raw = bytearray(saved({"w": torch.arange(300.0), "x": torch.arange(3.0)}))
    crc = zlib.crc32(torch.arange(300.0).numpy().tobytes()).to_bytes(4, "little")
    at = raw.index(b"PK\x07\x08" + crc) + 4
    raw[at : at + 4] = bytes(4)
    plan, state = salvaged(tmp_path, bytes(raw[: raw.index(b"PK\x01\x02")]))
    assert ["no checksum" in tensor.reason for tensor in plan.lost] == [True]
    assert set(state) == {"x"}


def test_the_original_is_read_only_and_an_existing_file_is_never_replaced(whole: bytes, tmp_path: Path) -> None:
    broken, out = tmp_path / "broken.pt", tmp_path / "out.pt"
    broken.write_bytes(whole[: whole.index(b"PK\x01\x02")])
    broken.chmod(0o444)
    before = (broken.stat().st_mtime_ns, broken.stat().st_ino, hashlib.sha256(broken.read_bytes()).digest())
    out.write_bytes(b"mine")
    with pytest.raises(CkptError, match="Already there"):
        plan_salvage(str(broken), str(out))
    with pytest.raises(CkptError, match="Already there"):
        plan_salvage(str(broken), str(broken))
    plan = plan_salvage(str(broken), str(tmp_path / "new.pt"))
    (tmp_path / "new.pt").write_bytes(b"came meanwhile")
    with pytest.raises(CkptError, match="Already there"):
        carry_out(plan)
    assert (tmp_path / "new.pt").read_bytes() == b"came meanwhile"
    assert out.read_bytes() == b"mine"
    assert (broken.stat().st_mtime_ns, broken.stat().st_ino, hashlib.sha256(broken.read_bytes()).digest()) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["broken.pt", "new.pt", "out.pt"]


@pytest.mark.parametrize(
    "raw",
    [
        b"PK\x03\x04" * 400_000,
        b"PK\x03\x04" + b"PK\x07\x08" * 400_000,
        (b"PK\x03\x04\x14\x00\x08\x00" + bytes(18) + b"\x01\x00\x00\x00a") * 120_000,
    ],
    ids=["signatures", "descriptors", "headers"],
)
def test_what_only_looks_like_records_is_given_up(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(raw)
    with pytest.raises(CkptError, match="look like records") as caught:
        plan_salvage(str(tmp_path / "x.pt"), str(tmp_path / "out.pt"))
    assert "harm" in caught.value.hint


def test_a_record_of_more_than_4_gib_gets_zip64_fields(tmp_path: Path) -> None:
    huge = 5 << 30
    source = Source("nowhere", 0, huge, huge, 123, is_vouched=True)
    new_file = torch_zip_pieces(b"\x80\x02}.", [("0", source), ("1", b"abcd"), ("2", source), ("3", b"x")], "little")
    path = tmp_path / "x.pt"
    with open(path, "wb") as file:  # with holes where the storages are
        for piece in new_file.pieces:
            file.write(piece) if isinstance(piece, bytes) else file.seek(piece.size_bytes, 1)
    assert path.stat().st_size == new_file.size_bytes
    with open(path, "rb") as file:
        index = read_zip_index(file.fileno(), new_file.size_bytes, str(path))
        walked = list(ZipWalk(file.fileno(), new_file.size_bytes).records())
    assert index.findings == []
    sizes = {entry.name: (entry.offset, entry.size_bytes) for entry in index.entries}
    assert sizes["archive/data/2"] == (new_file.storages[2].offset, huge)
    assert all(offset is not None and offset % 64 == 0 for offset, _ in sizes.values())
    assert sizes == {record.name: (record.offset, record.size_bytes) for record in walked}
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("archive/data/2").file_size == huge
        assert archive.read("archive/data/3") == b"x"
    reader = torch._C.PyTorchFileReader(str(path))
    assert reader.get_record("data/3") == b"x"
    assert reader.get_record_offset("data/2") == new_file.storages[2].offset


def test_another_checkpoint_of_the_run_can_tell_the_names(tmp_path: Path) -> None:
    def state(step: int, size: int = 6) -> dict[str, Any]:
        torch.manual_seed(step)
        weight = torch.randn(4, size)
        return {
            "step": step, "model": {"w": weight, "tied": weight, "b": torch.randn(4)}, "args": {"lr": 0.1, "list": [1]},
            "optimizer": {"state": {0: {"exp_avg": torch.randn(4, size).t()}}},
        }  # fmt: skip

    raw = bytearray(saved(state(200)))
    raw[:200] = bytes(200)  # a torn page: data.pkl is gone
    broken, other, out = tmp_path / "broken.pt", tmp_path / "other.pt", tmp_path / "out.pt"
    broken.write_bytes(raw)
    other.write_bytes(saved(state(100)))
    plan = plan_salvage(str(broken), str(out), names_from=str(other))
    carry_out(plan)
    got, truth = torch.load(out, weights_only=True), state(200)
    assert set(got) == {"model", "optimizer"}  # the other's step and settings are not this one's
    assert plan.progress == {}
    assert plan.lost == []
    for place, value in leaves(got):
        expected = dict(leaves(truth))[place]
        assert isinstance(expected, torch.Tensor)
        assert isinstance(value, torch.Tensor)
        assert are_same(value, expected)
    assert got["model"]["w"].data_ptr() == got["model"]["tied"].data_ptr()
    # One of another shape tells nothing, and its sizes give it away.
    other.write_bytes(saved(state(100, size=7)))
    with pytest.raises(CkptError, match=r"Not of the same kind.*has 96 bytes, there 112"):
        plan_salvage(str(broken), str(tmp_path / "new.pt"), names_from=str(other))
    other.write_bytes(saved({"model": {"w": torch.ones(4, 6)}}))
    with pytest.raises(CkptError, match="Not of the same kind"):
        plan_salvage(str(broken), str(tmp_path / "new.pt"), names_from=str(other))
    # Where the names are whole they stay.
    broken.write_bytes(saved(state(200))[:-50])
    plan = plan_salvage(str(broken), str(tmp_path / "new.pt"), names_from=str(other))
    assert plan.progress["step"] == 200
