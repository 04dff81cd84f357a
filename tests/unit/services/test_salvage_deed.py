"""The deed of a salvage: whatever interrupts it, OUT is whole or not there, and the original is as it was."""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpt_tui import cli
from ckpt_tui.checkpoints.byte_pass import PassResult
from ckpt_tui.checkpoints.validate import validate_checkpoint
from ckpt_tui.errors import Cancelled, CkptError
from ckpt_tui.services import new_file as new_file_module
from ckpt_tui.services.salvage import ReadBackError, SalvagePlan, carry_out, plan_salvage
from tests.builders.crashing import failing_at, file_operations, killed_at
from tests.builders.frameworks import shards
from tests.builders.salvage_states import every_kind, saved


class Runs:
    """What a loader that trusts the file would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/ckpt-tui-salvage-ran-it",)


@pytest.fixture(scope="module")
def cut() -> bytes:
    whole = saved(every_kind())
    return whole[: whole.index(b"PK\x01\x02") - 700]


@pytest.fixture
def broken(tmp_path: Path, cut: bytes) -> Path:
    path = tmp_path / "broken.pt"
    path.write_bytes(cut)
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def plan_of(broken: Path) -> SalvagePlan:
    return plan_salvage(str(broken), str(broken.with_name("out.pt")))


def test_killed_at_any_point_it_leaves_no_out_or_a_whole_one(broken: Path, cut: bytes) -> None:
    out = broken.with_name("out.pt")

    def work() -> None:
        carry_out(plan_of(broken))

    operations = file_operations(work)
    assert {"open", "write", "fsync", "link", "unlink"} <= set(operations)
    expected = out.read_bytes()
    out.unlink()
    num_without = 0
    for number in range(1, len(operations) + 1):
        for when in ("before", "after"):
            assert killed_at(number, work, when=when)
            assert broken.read_bytes() == cut
            if out.exists():
                assert out.read_bytes() == expected
                out.unlink()
            else:
                num_without += 1
                work()  # it can be done again, and what the dead one left is cleaned up
                assert names_in(broken.parent) == ["broken.pt", "out.pt"]
                out.unlink()
            for rest in broken.parent.glob(".out.pt.tmp-*"):
                rest.unlink()
    assert num_without >= 4


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failing_device_is_said_and_leaves_nothing(broken: Path, code: int) -> None:
    num_operations = len(file_operations(lambda: carry_out(plan_of(broken))))
    broken.with_name("out.pt").unlink()
    for number in range(1, num_operations - 1):  # the last two come when OUT has its name
        plan = plan_of(broken)
        said: CkptError | None = None
        with failing_at(number, OSError(code, os.strerror(code))) as operations:
            try:
                carry_out(plan)
            except CkptError as error:
                said = error
        if said is None:
            assert operations[number - 1] == "link"  # then it is renamed
            assert torch.load(broken.with_name("out.pt"), weights_only=True)["step"] == 500
            broken.with_name("out.pt").unlink()
            continue
        assert os.strerror(code) in said.message
        assert ("Make room" in said.hint) == (code == errno.ENOSPC), "a full disk is not a failing one"
        assert names_in(broken.parent) == ["broken.pt"]


def test_it_can_be_cancelled_and_interrupted(broken: Path) -> None:
    plan = plan_of(broken)
    with pytest.raises(Cancelled):
        carry_out(plan, is_cancelled=lambda: True)
    assert names_in(broken.parent) == ["broken.pt"]

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(plan, on_bytes=interrupt)
    assert names_in(broken.parent) == ["broken.pt"]
    with pytest.raises(Cancelled):
        plan_salvage(str(broken), str(broken.with_name("out.pt")), is_cancelled=lambda: True)


def test_progress_is_of_every_byte(broken: Path) -> None:
    done: list[int] = []
    plan = plan_salvage(str(broken), str(broken.with_name("out.pt")), on_bytes=done.append)
    assert 0 < sum(done) <= broken.stat().st_size
    done.clear()
    carry_out(plan, on_bytes=done.append)
    assert plan.new_file is not None
    copied = sum(storage.size_bytes for storage in plan.new_file.storages)
    assert copied <= sum(done) <= 2 * plan.new_file.size_bytes


def test_an_original_that_changes_meanwhile_is_noticed(broken: Path) -> None:
    plan = plan_of(broken)
    source = max(plan.examined.sources.values(), key=lambda source: source.size_bytes)
    raw = bytearray(broken.read_bytes())
    raw[source.offset] ^= 1
    broken.write_bytes(raw)
    with pytest.raises(CkptError, match="does not read back"):
        carry_out(plan)
    broken.write_bytes(raw[: source.offset])
    with pytest.raises(CkptError, match="shorter"):
        carry_out(plan)
    assert names_in(broken.parent) == ["broken.pt"]


def test_a_full_disk_is_foreseen(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(broken.parent)
    full = os.statvfs_result((*real[:4], 1, *real[5:]))
    assert full.f_bavail == 1
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(CkptError, match="No space"):
        plan_of(broken)
    assert names_in(broken.parent) == ["broken.pt"]


def test_places_that_cannot_be_written_to_are_said_first(broken: Path) -> None:
    for out, title in (
        (broken.parent / "nowhere" / "out.pt", "Not found"),
        (broken / "out.pt", "Not a directory"),
        (broken.parent, "Already there"),
    ):
        with pytest.raises(CkptError, match=title):
            plan_salvage(str(broken), str(out))
    with pytest.raises(CkptError, match="Inside the original"):
        plan_salvage(str(broken.parent), str(broken.parent / "out.pt"))
    with pytest.raises(CkptError, match="Not possible as safetensors"):
        plan_salvage(str(broken), str(broken.parent / "out.safetensors"))


def test_where_hard_links_and_kernel_copies_cannot_be_it_is_done_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    large = torch.arange(700_000.0)
    raw = saved({"large": large, "small": torch.ones(3)})
    (tmp_path / "broken.pt").write_bytes(raw[: raw.rindex(b"PK\x01\x02")])
    with_them = tmp_path / "with.pt"
    carry_out(plan_salvage(str(tmp_path / "broken.pt"), str(with_them)))
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "copy_file_range", refuse)
    carry_out(plan_salvage(str(tmp_path / "broken.pt"), str(tmp_path / "without.pt")))
    # What the thread that reads back cannot read was not compared.
    monkeypatch.setattr(new_file_module, "read_once", lambda *_, **__: PassResult())
    with pytest.raises(ReadBackError):
        carry_out(plan_salvage(str(tmp_path / "broken.pt"), str(tmp_path / "never.pt")))
    assert not (tmp_path / "never.pt").exists()
    assert with_them.read_bytes() == (tmp_path / "without.pt").read_bytes()
    assert torch.equal(torch.load(with_them, weights_only=True)["large"], large)
    assert torch.equal(torch.load(with_them, weights_only=True, mmap=True)["large"], large)


# --- from the shell


def salvage(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = cli.main(["salvage", *map(str, arguments), "--json"])
    envelope = json.loads(capsys.readouterr().out)
    assert envelope["schema"] == "ckpt-tui/salvage/1"
    assert envelope["ok"] is (code == 0)
    return code, envelope


def test_json_names_everything_that_is_lost(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = broken.with_name("out.pt")
    code, envelope = salvage(broken, "-o", out, "--dry-run", capsys=capsys)
    assert code == 0
    assert envelope["data"]["done"] is False
    assert not out.exists()
    code, envelope = salvage(broken, "-o", out, capsys=capsys)
    data = envelope["data"]
    assert (code, data["done"], data["damaged"], data["names_known"]) == (0, True, True, True)
    assert data["names_from_other"] is False
    assert data["out_bytes"] == out.stat().st_size
    assert data["progress"]["step"] == 500
    assert data["num_salvaged"] + len(data["lost"]) == data["num_tensors"]
    assert data["lost"]
    assert all(
        set(tensor) == {"name", "file", "shape", "dtype", "bytes", "reason"} and tensor["reason"]
        for tensor in data["lost"]
    )
    assert data["parts"]["model"] == {"salvaged": 3, "tensors": 3}
    validation = validate_checkpoint(str(out), levels=("structure", "integrity"))
    assert validation.verdict == "valid"


def test_damage_besides_the_cut_is_found_while_it_is_written(
    broken: Path, cut: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    out, tied = broken.with_name("out.pt"), every_kind()["model"]["embed.weight"].numpy().tobytes()
    raw = bytearray(cut)
    raw[cut.index(tied) + 7] ^= 2
    broken.write_bytes(raw)
    plan = plan_salvage(str(broken), str(out), trusts_checksums=True)
    assert not plan.examined.is_verified
    with pytest.raises(ReadBackError):
        carry_out(plan)
    assert names_in(broken.parent) == ["broken.pt"]
    code, envelope = salvage(broken, "-o", out, capsys=capsys)
    assert (code, envelope["data"]["done"]) == (0, True)
    lost = {tensor["name"]: tensor["reason"] for tensor in envelope["data"]["lost"]}
    assert "checksum" in lost["model.embed.weight"]
    assert "embed.weight" not in torch.load(out, weights_only=True)["model"]
    assert names_in(broken.parent) == ["broken.pt", "out.pt"]


def test_text_says_what_came_back_what_is_lost_and_what_to_do(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = broken.with_name("out.pt")
    assert cli.main(["salvage", str(broken), "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "step 500" in said
    assert "lost: " in said
    assert "lay behind the cut" in said
    assert f'torch.load("{out}", weights_only=True)' in said
    assert f"ckpt-tui validate {out}" in said
    assert cli.main(["salvage", str(broken), "-o", str(out)]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


def test_text_where_no_tensor_is_lost_says_what_was_damaged(
    tmp_path: Path, cut: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, out = tmp_path / "a b.pt", tmp_path / "it's.pt"
    broken.write_bytes(saved({"model": {"w": torch.ones(3)}})[:-1])
    assert cli.main(["salvage", str(broken), "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "1 of 1 tensor" in said
    assert "What was damaged: end: its central directory" in said
    command = said.splitlines()[-1].removeprefix("Check it: ")
    assert shlex.split(command) == ["ckpt-tui", "validate", str(out)], "it can be pasted"


def test_a_whole_file_that_can_run_code_is_not_to_be_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evil.pt").write_bytes(saved({"w": torch.ones(3), "x": Runs()}))
    assert cli.main(["salvage", str(tmp_path / "evil.pt"), "-o", str(tmp_path / "out.pt")]) == 1
    said = capsys.readouterr().out
    assert "can run code: its pickle names posix.system" in said
    assert "copy it" not in said


def test_text_where_nothing_is_left_promises_nothing(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken.write_bytes(broken.read_bytes()[:100])
    assert cli.main(["salvage", str(broken), "-o", str(broken.with_name("out.pt"))]) == 1
    said = capsys.readouterr().out
    assert "nothing can be got back" in said
    assert "0 of 0" not in said
    assert "--names-from" not in said, "there are no bytes that a name could be given to"
    assert "Nothing was written" in said


def test_text_of_lost_shards_gives_no_size_that_nothing_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "model").mkdir()
    shards(tmp_path / "model")
    names = sorted((tmp_path / "model").glob("*-of-*"))
    names[-1].unlink()
    assert cli.main(["salvage", str(tmp_path / "model"), "-o", str(tmp_path / "out.pt")]) == 0
    said = capsys.readouterr().out
    assert "of unknown size" in said
    assert ", 0 B" not in said
    assert "its shard is missing" in said


def test_a_whole_checkpoint_is_left_alone_unless_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, out = tmp_path / "whole.pt", tmp_path / "out.pt"
    whole.write_bytes(saved({"w": torch.ones(3)}))
    code, envelope = salvage(whole, "-o", out, capsys=capsys)
    assert (code, envelope["data"]["damaged"], envelope["data"]["done"]) == (1, False, False)
    assert not out.exists()
    assert cli.main(["salvage", str(whole), "-o", str(out)]) == 1
    assert "nothing is damaged" in capsys.readouterr().out
    code, envelope = salvage(whole, "-o", out, "--force", capsys=capsys)
    assert (code, envelope["data"]["done"]) == (0, True)
    assert torch.load(out, weights_only=True)["w"].tolist() == [1, 1, 1]


def test_nothing_left_is_exit_1(broken: Path, cut: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    for num_bytes in (5, 70, 900):
        broken.write_bytes(cut[:num_bytes])
        code, envelope = salvage(broken, "-o", broken.with_name("out.pt"), capsys=capsys)
        assert code == 1
        assert envelope["data"]["done"] is False
        assert names_in(broken.parent) == ["broken.pt"]


def test_a_dangerous_pickle_is_not_carried_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = saved({"w": torch.ones(3), "run": Runs(), "inner": [Runs(), 7]})
    path, out = tmp_path / "x.pt", tmp_path / "out.pt"
    path.write_bytes(raw[: raw.rindex(b"PK\x01\x02")])
    code, envelope = salvage(path, "-o", out, capsys=capsys)
    assert code == 0
    assert {change["place"] for change in envelope["data"]["left_out"]} == {"run", "inner.0"}
    state = torch.load(out, weights_only=True)
    assert (state["inner"], set(state)) == ([None, 7], {"w", "inner"})
    assert b"system" not in out.read_bytes()
    assert not Path("/tmp/ckpt-tui-salvage-ran-it").exists()


def test_ctrl_c_is_exit_130_and_leaves_nothing(tmp_path: Path) -> None:
    raw = io.BytesIO()
    torch.save({f"w{n}": torch.zeros(1 << 20) for n in range(24)}, raw)
    path = tmp_path / "x.pt"
    path.write_bytes(raw.getvalue()[:-5000])
    child = subprocess.Popen(
        [sys.executable, "-c", _SLOWLY, "salvage", str(path), "-o", str(tmp_path / "out.pt")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while names_in(tmp_path) == ["x.pt"] and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=300)
    assert child.returncode == 130
    assert b"Traceback" not in said
    assert names_in(tmp_path) == ["x.pt"]


# So that there is time to press Ctrl-C: each copy of a storage takes a while.
_SLOWLY = """
import os, sys, time
real = os.copy_file_range
def slow(*arguments):
    time.sleep(0.2)
    return real(*arguments)
os.copy_file_range = slow
from ckpt_tui import cli
from ckpt_tui.checkpoints.byte_pass import PassResult
sys.exit(cli.main(sys.argv[1:]))
"""
