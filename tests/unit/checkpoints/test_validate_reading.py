"""What a validation costs: bytes read once, flat memory, threads that agree, cancel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckpt_tui.checkpoints import byte_pass, threads
from ckpt_tui.errors import Cancelled
from tests.builders.validation import ALL_PASS, codes, keep_time, records, save, validate, words_of


def test_cancel_stops_in_the_middle(tmp_path: Path) -> None:
    path = save(tmp_path / "w.pt", {"t": torch.zeros(2_000_000)})
    answers = iter([False, False, True])
    with pytest.raises(Cancelled):
        validate(path, is_cancelled=lambda: next(answers))


def test_memory_is_flat_and_every_byte_is_read_once(tmp_path: Path) -> None:
    import tracemalloc

    path = save(tmp_path / "w.pt", {str(i): torch.ones(1_000_000) for i in range(10)})
    seen: list[int] = []
    tracemalloc.start()
    try:
        validation = validate(path, on_bytes=seen.append)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert validation.verdict == "valid"
    assert sum(seen) == validation.bytes_checked
    assert 40_000_000 < sum(seen) <= path.stat().st_size


def test_records_that_overlap_do_not_multiply_the_work(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(1_000_000))
    regions = [byte_pass.Region(str(i), 0, 1_000_000) for i in range(1000)]
    descriptor = os.open(path, os.O_RDONLY)
    try:
        result = byte_pass.read_once(descriptor, 1_000_000, regions)
    finally:
        os.close(descriptor)
    assert sum(region.is_read for region in result.regions) == 2
    assert len(result.regions) == 1000


@pytest.fixture
def many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_pass, "MIN_SHARE_BYTES", 1000)
    monkeypatch.setattr(threads, "_num_cpus", lambda: 4)


@pytest.mark.usefixtures("many_threads")
def test_shared_among_threads_the_findings_are_the_same(whole: Path, copy: Path) -> None:
    assert validate(whole).levels == ALL_PASS
    content = bytearray(whole.read_bytes())
    for _, offset, size in records(whole):
        content[offset + size // 2] ^= 1
    keep_time(copy, bytes(content))
    shared = validate(copy, levels=("integrity",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "MAX_THREADS", 1)
        alone = validate(copy, levels=("integrity",))
    assert len(shared.findings) > 20 or shared.levels["structure"] == "fail"
    assert shared.findings == alone.findings
    assert shared.bytes_checked >= alone.bytes_checked


@pytest.mark.usefixtures("many_threads")
def test_threads_cancel_and_report_the_error_that_stopped_them(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Cancelled):
        validate(whole, is_cancelled=lambda: True)
    real = os.preadv

    def fails_late(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if offset > 8192:
            raise OSError(5, "Input/output error")
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", fails_late)
    validation = validate(whole)
    assert validation.verdict == "unreadable"
    assert "Input/output error" in words_of(validation)


@pytest.mark.usefixtures("many_threads")
def test_holes_across_the_border_of_two_shares(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({str(i): torch.randn(3001) for i in range(8)}, path)
    content = bytearray(path.read_bytes())
    content[4096 : 15 * 4096] = bytes(14 * 4096)
    keep_time(path, bytes(content))
    validation = validate(path)
    assert codes(validation) == {"hole"}
    assert "bytes 4,096 to 61,440" in words_of(validation)


@pytest.mark.usefixtures("many_threads")
def test_threads_share_a_crc_of_the_whole_file(whole: Path, copy: Path) -> None:
    import zlib

    content = whole.read_bytes()
    digest = f"crc32:{zlib.crc32(content):08x}"
    shared = validate(whole, digest=digest)
    assert shared.levels == ALL_PASS
    assert shared.bytes_checked >= len(content)
    for place in [0, 1, *range(7, len(content), 97), len(content) - 1]:
        raw = bytearray(content)
        raw[place] ^= 16
        keep_time(copy, bytes(raw))
        found = validate(copy, levels=("integrity",), digest=digest)
        assert found.verdict != "valid", place
        assert "digest" in codes(found) or found.levels["structure"] == "fail", place


@pytest.mark.usefixtures("many_threads")
def test_one_record_may_be_most_of_a_file(tmp_path: Path) -> None:
    """An embedding of nine tenths of the file was once taken for a trick, on machines with four cores."""
    path = tmp_path / "m.pt"
    torch.save({"embedding": torch.randn(1200, 1200), "bias": torch.randn(3000), "more": torch.randn(3000)}, path)
    assert validate(path, levels=("integrity", "numbers")).levels["integrity"] == "pass"
