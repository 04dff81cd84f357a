"""Archives whose headers lie: each lie is said, nothing is believed, what still decodes is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ckpt_tui.checkpoints.limits import DEFAULT_LIMITS, ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.errors import CkptError
from tests.builders.torch_files import save_bytes
from tests.builders.zip_files import Record, zip_bytes

_PICKLE = b"\x80\x02}q\x00X\x04\x00\x00\x00stepq\x01K\x07s."
_OTHER = b"\x80\x02}q\x00X\x04\x00\x00\x00stepq\x01K\x08s."
_PAYLOAD = b"cos\nsystem\n(X\x02\x00\x00\x00idtR."
_PKL = "archive/data.pkl"

# lie -> (records behind data.pkl, code, where)
LIES = {
    "data crosses the next record": (
        [Record("archive/data/0", b"a" * 40, {"packed": 100, "size": 100}, {"packed": 100, "size": 100}),
         Record("archive/data/1", b"b" * 40)],
        "overlapping-records", "archive/data/1",
    ),
    "reaches into the directory": (
        [Record("archive/data/0", b"a" * 40, {"packed": 90_000, "size": 90_000})],
        "record-outside", "archive/data/0",
    ),
    "begins behind the end": ([Record("archive/data/0", b"a", {"at": 1 << 31})], "record-outside", "archive/data/0"),
    "stored with two sizes": ([Record("archive/data/0", b"a" * 40, {"size": 4_000_000_000})], "size-lies",
                              "archive/data/0"),
    "local name differs": ([Record("archive/data/0", b"a", local={"name": "archive/data/9"})], "headers-disagree",
                           "archive/data/0"),
    "local method differs": ([Record("archive/data/0", b"a", local={"method": 8})], "headers-disagree",
                             "archive/data/0"),
    "local size differs": ([Record("archive/data/0", b"a" * 9, local={"size": 8, "packed": 8})], "headers-disagree",
                           "archive/data/0"),
    "local checksum differs": ([Record("archive/data/0", b"a", local={"crc": 5})], "headers-disagree",
                               "archive/data/0"),
    "encrypted": ([Record("archive/data/0", b"a", {"flags": 1})], "encrypted-record", "archive/data/0"),
    "a name twice": ([Record("archive/data/0", b"a"), Record("archive/data/0", b"b")], "duplicate-record",
                     "archive/data/0"),
}  # fmt: skip


def _open(tmp_path: Path, data: bytes) -> Checkpoint:
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    return open_checkpoint(path)


@pytest.mark.parametrize("lie", list(LIES))
def test_a_lie_is_an_error_and_the_state_is_still_shown(tmp_path: Path, lie: str) -> None:
    records, code, where = LIES[lie]
    checkpoint = _open(tmp_path, zip_bytes(Record(_PKL, _PICKLE), *records))
    assert (code, where, "error") in [(f.code, f.where, f.severity) for f in checkpoint.findings]
    assert checkpoint.progress == {"step": 7}


def test_an_honest_archive_has_no_finding(tmp_path: Path) -> None:
    checkpoint = _open(tmp_path, zip_bytes(Record(_PKL, _PICKLE), Record("archive/data/0", b"a")))
    assert checkpoint.findings == []


def test_checksums_that_were_not_written_are_no_damage(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        data = save_bytes({"w": torch.ones(3)})
    finally:
        torch.serialization.set_crc32_options(before)
    checkpoint = _open(tmp_path, data)
    assert checkpoint.findings == []
    assert checkpoint.storages["data/0"].crc32 is None
    assert _open(tmp_path, save_bytes({"w": torch.ones(3)})).storages["data/0"].crc32 is not None


# Of several data.pkl every one is decoded: programs disagree which of them they load.
@pytest.mark.parametrize(
    ("pickles", "step", "codes"),
    [
        ([_PICKLE, _OTHER], 7, ["duplicate-record"]),
        ([_PICKLE, b"junk"], 7, ["duplicate-record", "unreadable-pickle"]),
        ([b"junk", _OTHER], 8, ["duplicate-record", "unreadable-pickle"]),
    ],
)
def test_every_data_pkl_is_decoded(tmp_path: Path, pickles: list[bytes], step: int, codes: list[str]) -> None:
    checkpoint = _open(tmp_path, zip_bytes(*(Record(_PKL, data) for data in pickles)))
    assert [finding.code for finding in checkpoint.findings] == codes
    assert checkpoint.progress == {"step": step}


def test_a_payload_in_a_second_pickle_is_found_even_when_it_does_not_decode(tmp_path: Path) -> None:
    for payload in (_PAYLOAD, _PAYLOAD[:-1] + b"\xff"):
        checkpoint = _open(tmp_path, zip_bytes(Record(_PKL, _PICKLE), Record(_PKL, payload)))
        assert checkpoint.safety == "dangerous"
        assert checkpoint.progress == {"step": 7}


def test_a_data_pkl_in_another_directory_is_judged_too(tmp_path: Path) -> None:
    checkpoint = _open(tmp_path, zip_bytes(Record(_PKL, _PICKLE), Record("other/data.pkl", _PAYLOAD)))
    assert [finding.code for finding in checkpoint.findings] == ["several-pickles"]
    assert checkpoint.safety == "dangerous"


def test_when_none_decodes_the_first_one_s_damage_is_said(tmp_path: Path) -> None:
    with pytest.raises(CkptError) as caught:
        _open(tmp_path, zip_bytes(Record(_PKL, _PAYLOAD[:-1] + b"\xff"), Record(_PKL, b"junk")))
    assert caught.value.title == "Damaged checkpoint"
    assert "0xff is no opcode" in caught.value.message
    assert "os.system" in caught.value.message


@pytest.mark.parametrize("how", ["many", "large", "inflated"])
def test_more_pickle_than_a_checkpoint_can_need_is_refused(tmp_path: Path, how: str) -> None:
    if how == "many":
        data, limits = zip_bytes(*(Record(f"{i}/data.pkl", _PICKLE) for i in range(17))), DEFAULT_LIMITS
    elif how == "large":
        data, limits = zip_bytes(Record(_PKL, _PICKLE), Record(_PKL, _PICKLE)), ReadLimits(max_pickle_bytes=30)
    else:
        lie = {"method": 8, "size": 400_000_000}
        data, limits = zip_bytes(Record(_PKL, _PICKLE, lie, lie)), DEFAULT_LIMITS
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    with pytest.raises(CkptError) as caught:
        open_checkpoint(path, limits)
    assert caught.value.title == "Not readable"
