"""The container that a state is laid out in: what torch and Python's zipfile read, also beyond 4 GiB."""

from __future__ import annotations

import mmap
import pickle
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.container import PAGE_BYTES, Layout
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.state import BadCheckpointError, read_file

GIB = 1 << 30


def crc_of(data: memoryview | bytes) -> int:
    """Of what is there: the large records are holes."""
    return 0 if len(data) >= GIB else zlib.crc32(data)


@pytest.mark.parametrize("sizes", [(5 * GIB, 100, 4 * GIB, 0, 7), (0xFFFFFFFF, 1), (0xFFFFFFFE, 1), (3,), ()])
def test_records_lie_where_the_directory_says(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    pickled = pickle.dumps({"step": 1, "text": "x" * 5000}, 2)
    layout = Layout(sizes, len(pickled))
    path = tmp_path / "large.pt"
    with path.open("w+b") as file:
        file.truncate(layout.size_bytes)
        with mmap.mmap(file.fileno(), layout.size_bytes) as memory, memoryview(memory) as view:
            layout.prepare(view)
            for number, (offset, size) in enumerate(zip(layout.offsets, sizes, strict=True)):
                view[offset : offset + min(size, 4)] = bytes([number + 1] * min(size, 4))
            layout.finish(view, pickled, crc_of)
    try:
        check(path, layout, sizes, pickled)
    finally:
        path.unlink()


def check(path: Path, layout: Layout, sizes: tuple[int, ...], pickled: bytes) -> None:
    reader = torch._C.PyTorchFileReader(str(path))
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename.removeprefix("archive/"): info for info in archive.infolist()}
        assert reader.get_record("data.pkl") == archive.read("archive/data.pkl") == pickled
        assert reader.get_record("version") == b"3\n"
        for number, (offset, size) in enumerate(zip(layout.offsets, sizes, strict=True)):
            assert infos[f"data/{number}"].file_size == infos[f"data/{number}"].compress_size == size
            assert reader.get_record_offset(f"data/{number}") == offset
            assert offset % 64 == 0
            if 0 < size < GIB:
                found = archive.read(f"archive/data/{number}")
                assert found[:4] == bytes([number + 1] * min(size, 4))
        headers = [info.header_offset for info in archive.infolist()]
        assert headers == sorted(headers)
        first = next((info.header_offset for info in archive.infolist() if info.filename == "archive/data/0"), 0)
        assert first % PAGE_BYTES == 0


def test_a_pickle_that_grows_a_little_keeps_its_layout() -> None:
    layout = Layout((100, 200), 10_000)
    assert layout.fits((100, 200), 9_000)
    assert layout.fits((100, 200), 15_000)
    assert not layout.fits((100, 201), 10_000)
    assert not layout.fits((100, 200), 60_000)
    assert not Layout((100,), 200_000).fits((100,), 100_000)  # more padding than a header can hold


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_a_flipped_bit_in_the_directory_is_a_bad_checkpoint_and_no_error_of_zipfile(bit: int, tmp_path: Path) -> None:
    with Checkpointer(tmp_path, Policy(is_async=False), say=lambda _: None) as checkpoints:
        checkpoints.save({"step": 1, "model": {"weight": torch.ones(4)}}, ())
    path = tmp_path / "latest.pt"
    content = path.read_bytes()
    digest = f"crc32:{zlib.crc32(content):08x}"
    for at in range(content.index(b"PK\x01\x02"), len(content)):
        flipped = bytearray(content)
        flipped[at] ^= 1 << bit
        path.write_bytes(flipped)
        with pytest.raises(BadCheckpointError) as told:
            read_file(str(path), digest)
        assert told.value.damage in ("cut", "checksum", "digest"), at
