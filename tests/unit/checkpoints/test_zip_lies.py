"""Archives whose headers lie: each lie is said, nothing is believed, what still decodes is shown."""

from __future__ import annotations

import functools
import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from ckpt_tui.checkpoints.limits import DEFAULT_LIMITS, ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.errors import CkptError
from tests.builders.pace import cpu_time
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


def _archive(*records: Record) -> bytes:
    """With the record that torch looks at first."""
    return zip_bytes(*records, Record("archive/version", b"3\n"))


def _open(tmp_path: Path, data: bytes) -> Checkpoint:
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    return open_checkpoint(path)


@pytest.mark.parametrize("lie", list(LIES))
def test_a_lie_is_an_error_and_the_state_is_still_shown(tmp_path: Path, lie: str) -> None:
    records, code, where = LIES[lie]
    checkpoint = _open(tmp_path, _archive(Record(_PKL, _PICKLE), *records))
    assert (code, where, "error") in [(f.code, f.where, f.severity) for f in checkpoint.findings]
    assert checkpoint.progress == {"step": 7}


def test_an_honest_archive_has_no_finding(tmp_path: Path) -> None:
    checkpoint = _open(tmp_path, _archive(Record(_PKL, _PICKLE), Record("archive/data/0", b"a")))
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
    checkpoint = _open(tmp_path, _archive(*(Record(_PKL, data) for data in pickles)))
    assert [finding.code for finding in checkpoint.findings] == codes
    assert checkpoint.progress == {"step": step}


def test_a_payload_in_a_second_pickle_is_found_even_when_it_does_not_decode(tmp_path: Path) -> None:
    for payload in (_PAYLOAD, _PAYLOAD[:-1] + b"\xff"):
        checkpoint = _open(tmp_path, _archive(Record(_PKL, _PICKLE), Record(_PKL, payload)))
        assert checkpoint.safety == "dangerous"
        assert checkpoint.progress == {"step": 7}


def test_a_data_pkl_in_another_directory_is_judged_too(tmp_path: Path) -> None:
    checkpoint = _open(tmp_path, _archive(Record(_PKL, _PICKLE), Record("other/data.pkl", _PAYLOAD)))
    assert [finding.code for finding in checkpoint.findings] == ["outside-folder", "several-pickles"]
    assert checkpoint.safety == "dangerous"


def test_when_none_decodes_the_first_one_s_damage_is_said(tmp_path: Path) -> None:
    with pytest.raises(CkptError) as caught:
        _open(tmp_path, _archive(Record(_PKL, _PAYLOAD[:-1] + b"\xff"), Record(_PKL, b"junk")))
    assert caught.value.title == "Damaged checkpoint"
    assert "0xff is no opcode" in caught.value.message
    assert "os.system" in caught.value.message


@pytest.mark.parametrize("how", ["many", "large", "inflated"])
def test_more_pickle_than_a_checkpoint_can_need_is_refused(tmp_path: Path, how: str) -> None:
    if how == "many":
        data, limits = _archive(*(Record(f"{i}/data.pkl", _PICKLE) for i in range(17))), DEFAULT_LIMITS
    elif how == "large":
        data, limits = _archive(Record(_PKL, _PICKLE), Record(_PKL, _PICKLE)), ReadLimits(max_pickle_bytes=30)
    else:
        lie = {"method": 8, "size": 400_000_000}
        data, limits = _archive(Record(_PKL, _PICKLE, lie, lie)), DEFAULT_LIMITS
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    with pytest.raises(CkptError) as caught:
        open_checkpoint(path, limits)
    assert caught.value.title == "Not readable"


# --- torch and Python disagree about names: what is shown is what torch.load gives


def _torch_takes(data: bytes) -> object:
    try:
        return torch.load(io.BytesIO(data), weights_only=True)["step"]
    except RuntimeError:
        return None


_VERSION = Record("archive/version", b"3\n")
NAMES = {
    "capitals alone": ([Record("archive/DATA.PKL", _PICKLE)], []),
    "capitals first": ([Record("archive/Data.pkl", _PICKLE), Record(_PKL, _OTHER)], ["duplicate-record"]),
    "capitals last": ([Record(_PKL, _PICKLE), Record("archive/DATA.pkl", _OTHER)], ["duplicate-record"]),
    "a deeper one first": (
        [_VERSION, Record("archive/deep/data.pkl", _PICKLE), Record(_PKL, _OTHER)], ["several-pickles"],
    ),
    "only a deeper one": ([_VERSION, Record("archive/deep/data.pkl", _PICKLE)], ["outside-folder"]),
    "in no folder": ([Record("data.pkl", _PICKLE), _VERSION], ["outside-folder"]),
    "another folder": ([_VERSION, Record("x/data.pkl", _PICKLE)], ["outside-folder"]),
    "no version": ([Record(_PKL, _PICKLE)], ["no-version"]),
    "up and away": ([Record("../data.pkl", _PICKLE), Record("../version", b"3\n")], []),
    "at the root": ([Record("/data.pkl", _PICKLE), Record("/version", b"3\n")], []),
}  # fmt: skip


@pytest.mark.parametrize("trick", NAMES)
def test_what_is_shown_is_what_torch_loads(tmp_path: Path, trick: str) -> None:
    records, codes = NAMES[trick]
    has_version = any(record.name.endswith("/version") for record in records)
    data = zip_bytes(*records, *([] if has_version or trick == "no version" else [_VERSION]))
    checkpoint = _open(tmp_path, data)
    assert [finding.code for finding in checkpoint.findings] == codes
    taken = _torch_takes(data)
    assert taken == (None if codes in (["outside-folder"], ["no-version"]) else checkpoint.progress["step"])


@pytest.mark.parametrize("first", [True, False])
def test_a_payload_under_capitals_is_judged(tmp_path: Path, first: bool) -> None:
    """torch does not tell capitals from small letters, so it loads whichever comes first."""
    records = [Record("archive/DATA.PKL", _PAYLOAD), Record(_PKL, _PICKLE)]
    checkpoint = _open(tmp_path, _archive(*(records if first else records[::-1])))
    assert checkpoint.safety == "dangerous"
    assert "duplicate-record" in [finding.code for finding in checkpoint.findings]


def _npy_of_one() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(1))
    return buffer.getvalue()


DECOYS = {
    "numpy": [Record("archive/a.npy", _npy_of_one())],
    "export": [Record("archive/archive_format", b"pt2"), Record("archive/models/model.json", b"{}")],
    "package": [Record("archive/.data/extern_modules", b"torch\n")],
    "torchscript": [Record("archive/CONSTANTS.PKL", b"\x80\x02).")],
}


@pytest.mark.parametrize("decoy", DECOYS)
@pytest.mark.parametrize("name", ["data.pkl", "Data.PKL"])
def test_an_archive_that_looks_like_another_format_hides_nothing(tmp_path: Path, decoy: str, name: str) -> None:
    """torch.load goes by data.pkl and not by the records beside it."""
    data = _archive(*DECOYS[decoy], Record(f"archive/{name}", _PAYLOAD))
    assert _open(tmp_path, data).safety == "dangerous"
    harmless = zip_bytes(*DECOYS[decoy], Record(f"archive/{name}", _PICKLE), _VERSION)
    if decoy != "torchscript":  # which torch.load gives to torch.jit
        assert _torch_takes(harmless) == 7


def test_a_second_weight_of_an_export_is_judged_too(tmp_path: Path) -> None:
    nested = zip_bytes(Record(_PKL, _PAYLOAD), _VERSION)
    for name in ("archive/data/sample_inputs/model.pt", "archive/data/sample_inputs/MODEL.pt"):
        records = [Record(name, nested), Record("archive/data/sample_inputs/model.pt", b"")]
        checkpoint = _open(tmp_path, _archive(*DECOYS["export"], *records))
        assert checkpoint.safety == "dangerous", name


# --- ends and directories


def test_the_start_of_an_end_record_behind_the_end_hides_nothing(tmp_path: Path) -> None:
    data = _archive(Record(_PKL, _PICKLE))
    for behind in (b"PK\5\6", b"PK\5\6" + b"\0" * 17):
        checkpoint = _open(tmp_path, data + behind)
        assert [finding.code for finding in checkpoint.findings] == ["trailing-data"]
        assert checkpoint.progress == {"step": 7}


def _with_zip64(data: bytes, number: int, size: int, start: int, at: int | None = None) -> bytes:
    """The archive with a zip64 end record, which torch trusts over the classic one."""
    body, end = data[:-22], data[-22:]
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, number, number, size, start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(body) if at is None else at, 1)
    return body + record + locator + end


def test_zip64_lies(tmp_path: Path) -> None:
    data = _archive(Record(_PKL, _PICKLE))
    number, size, start = struct.unpack("<H2I", data[-12:-2])
    honest = _open(tmp_path, _with_zip64(data, number, size, start))
    assert (honest.findings, honest.progress) == ([], {"step": 7})
    lies = {
        "more records": (1 << 40, size, start, None),
        "a larger directory": (number, 1 << 50, start, None),
        "a directory behind the end": (number, size, 1 << 60, None),
        "a locator to nowhere": (number, size, start, 1 << 62),
        "a locator to something else": (number, size, start, 4),
        "no record": (0, 0, 0, None),
        "one record of two": (1, size, start, None),
    }
    for lie, (records, length, place, at) in lies.items():
        try:
            found = _open(tmp_path, _with_zip64(data, records, length, place, at)).findings
        except CkptError as error:
            said = [error.title]
        else:
            said = [finding.code for finding in found]
        assert {"two-directories", "Damaged checkpoint", "Not a checkpoint"} & set(said), lie


def zip_of_tensor(storage: bytes) -> bytes:
    """torch's archive of {"w": one float}, around a storage of any size."""
    source = zipfile.ZipFile(io.BytesIO(save_bytes({"w": torch.ones(1)})))
    records = [Record(info.filename, source.read(info)) for info in source.infolist()]
    return zip_bytes(*(Record(r.name, storage) if r.name.endswith("data/0") else r for r in records))


def test_records_of_no_bytes(tmp_path: Path) -> None:
    with pytest.raises(CkptError, match="no sound pickle"):
        _open(tmp_path, _archive(Record(_PKL, b"")))
    data = zip_of_tensor(b"")
    checkpoint = _open(tmp_path, data)
    assert [(finding.code, finding.where) for finding in checkpoint.findings] == [("short-storage", "w")]


def test_names_with_escapes_and_traversal_are_only_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ckpt_tui.cli import main

    names = [
        "archive/../../../etc/passwd",
        "archive/\x1b]52;c;x\x07",
        "archive/a\nb",
        "archive/\u202edcba",
        "archive/" + "x" * 60_000,
    ]
    records = [Record(name, b"a", local={"name": "archive/other"}) for name in names]
    path = tmp_path / "x.pt"
    path.write_bytes(_archive(Record(_PKL, _PICKLE), *records))
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.split("\n"))
    assert len(shown) < 20_000


# --- what many, compressed or overlapping pickles may cost


@functools.cache
def _packed(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def _deflated(name: str, data: bytes) -> Record:
    truth = {"method": 8, "size": len(data), "crc": 0}
    return Record(name, _packed(data), truth, dict(truth))


def _busy_work(num_bytes: int) -> bytes:
    """A pickle that does nothing for long: one opcode a byte, of the slowest."""
    return b"\x8f0" * (num_bytes // 2) + b"cos\nsystem\n."


_NPY_OF_OBJECTS = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
_NPY = b"\x93NUMPY\1\0" + len(_NPY_OF_OBJECTS).to_bytes(2, "little") + _NPY_OF_OBJECTS
_LONG = _busy_work(8_000_000)
_LONG_ARRAY = _NPY + _LONG
BOMBS = {
    "data.pkl": lambda: [Record(_PKL, _PICKLE), _deflated(_PKL, _LONG)],
    "many of them": lambda: [Record(_PKL, _PICKLE), *(_deflated(f"archive/{i}/data.pkl", _LONG) for i in range(3))],
    "package": lambda: [*DECOYS["package"], *(_deflated(f"archive/{i}.pkl", _LONG) for i in range(3))],
    "numpy": lambda: [*DECOYS["numpy"], *(_deflated(f"archive/{i}.npy", _LONG_ARRAY) for i in range(3))],
    "torchscript": lambda: [
        Record(_PKL, _PICKLE), *DECOYS["torchscript"], *(_deflated(f"archive/{i}.pkl", _LONG) for i in range(3)),
        *(_deflated(f"archive/code/{i}.py.debug_pkl", _LONG) for i in range(3)),
    ],
    "inside another": lambda: [
        *DECOYS["export"],
        Record("archive/data/sample_inputs/model.pt", zip_bytes(_deflated(_PKL, _LONG), _VERSION)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_compressed_pickles_end_early_and_are_not_safe(tmp_path: Path, kind: str) -> None:
    data = _archive(*BOMBS[kind]())
    assert len(data) < 100_000
    with cpu_time() as took:
        checkpoint = _open(tmp_path, data)
    assert took.seconds < 4  # about one when nothing else runs; 12 without the limit
    assert checkpoint.safety in ("unknown", "dangerous")
    assert [f for f in checkpoint.findings if f.code in ("unreadable-pickle", "unreadable-part", "debug-not-read")]


def test_pickles_that_lie_over_each_other_are_decoded_as_often_as_the_file_has_bytes(tmp_path: Path) -> None:
    work = _busy_work(200_000)
    record = Record("archive/0.pkl", work)
    honest = zip_bytes(*DECOYS["package"], record)
    place = honest.index(b"archive/0.pkl") - 30
    others = [
        Record(f"archive/{i}.pkl", b"", {"at": place, "packed": len(work), "size": len(work)}) for i in range(900)
    ]
    with cpu_time() as took:
        checkpoint = _open(tmp_path, zip_bytes(*DECOYS["package"], record, *others))
    assert took.seconds < 5  # 900 times the work without the rule
    assert checkpoint.safety == "dangerous"
    assert "overlapping-records" in [finding.code for finding in checkpoint.findings]
