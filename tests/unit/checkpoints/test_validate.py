"""Verdicts on real files of torch and safetensors, whole and damaged in every way we know."""

from __future__ import annotations

import os
import threading
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckpt_tui.checkpoints.validate import LEVELS, validate_checkpoint
from tests.builders.validation import ALL_PASS, codes, full_state, keep_time, records, save, validate, words_of

# --- whole files


def test_a_whole_checkpoint_passes_every_level(whole: Path) -> None:
    validation = validate(whole)
    assert (validation.verdict, validation.levels, validation.findings) == ("valid", ALL_PASS, ())
    assert (validation.step, validation.format, validation.size_bytes) == (500, "torch-zip", whole.stat().st_size)
    assert validation.is_valid
    assert 0.9 * whole.stat().st_size < validation.bytes_checked <= whole.stat().st_size


def test_only_the_levels_that_were_asked_for(whole: Path) -> None:
    validation = validate(whole, levels=("structure",))
    assert validation.levels == {**dict.fromkeys(LEVELS, "not-checked"), "structure": "pass"}
    assert (validation.verdict, validation.bytes_checked) == ("valid", 0)
    assert validate(whole, levels=("numbers",)).levels["integrity"] == "not-checked"
    with pytest.raises(ValueError, match="no such level: beauty"):
        validate(whole, levels=("beauty",))


def test_weights_alone_have_nothing_to_resume(tmp_path: Path) -> None:
    validation = validate(save(tmp_path / "w.pt", {"a.weight": torch.randn(3, 3)}))
    assert (validation.verdict, validation.levels) == ("valid", {**ALL_PASS, "resume": "not-applicable"})


def test_safetensors_have_no_checksum_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.randn(300, 300), "b": torch.ones(7)}, path)
    validation = validate(path)
    assert (validation.verdict, validation.levels["integrity"]) == ("valid", "not-checked")
    assert codes(validation) == {"no-checksums"}


@pytest.mark.parametrize("algorithm", ["sha256", "crc32"])
def test_a_recorded_digest_makes_integrity_checkable(algorithm: str, tmp_path: Path) -> None:
    import hashlib
    import zlib

    path = tmp_path / "m.safetensors"
    save_file({"a": torch.randn(700, 700), "b": torch.ones(7)}, path)
    content = path.read_bytes()
    hexdigest = hashlib.sha256(content).hexdigest() if algorithm == "sha256" else f"{zlib.crc32(content):08x}"
    validation = validate(path, digest=f"{algorithm}:{hexdigest}")
    assert (validation.verdict, validation.levels["integrity"]) == ("valid", "pass")
    for place in (9, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 4
        path.write_bytes(changed)
        validation = validate(path, digest=f"{algorithm}:{hexdigest}")
        assert validation.verdict == "damaged", place
    path.write_bytes(content)
    assert validate(path, digest="whirlpool:00").levels["integrity"] == "not-checked"


def test_a_digest_covers_every_byte_of_a_zip(whole: Path, copy: Path) -> None:
    import hashlib

    content = bytearray(copy.read_bytes())
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    assert validate(copy, digest=digest).verdict == "valid"
    content[30 + 20] ^= 1  # in the padding or name of the first local header: no record's checksum covers it
    keep_time(copy, bytes(content))
    assert "digest" in codes(validate(copy, digest=digest))


def test_checksums_switched_off_are_not_damage(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path / "rolling_step_000500.pt", full_state())
    finally:
        torch.serialization.set_crc32_options(before)
    validation = validate(path)
    assert validation.levels == {**ALL_PASS, "integrity": "not-checked"}
    assert validation.verdict == "valid"


# --- flipped bits, holes, cuts


def test_a_flipped_bit_is_found_in_every_record_and_the_tensor_named(whole: Path, copy: Path) -> None:
    content = whole.read_bytes()
    names = {}
    from ckpt_tui.checkpoints.registry import open_checkpoint

    checkpoint = open_checkpoint(str(whole))
    for tensor in checkpoint.tensors:
        names.setdefault(checkpoint.storages[tensor.storage].offset, []).append(tensor.name)
    assert sum("tied" in tenants[-1] for tenants in names.values()) == 1
    num_named = 0
    for name, offset, size in records(whole):
        for place in {offset, offset + size // 2, offset + size - 1}:
            changed = bytearray(content)
            changed[place] ^= 0x10
            keep_time(copy, bytes(changed))
            validation = validate(copy)
            assert validation.verdict in ("damaged", "unsafe"), (name, place)
            assert validation.levels["integrity"] == "fail" or name.endswith("data.pkl")
            if offset in names:
                num_named += 1
                finding = next(f for f in validation.findings if f.code == "checksum")
                assert names[offset][0] in finding.message
                assert finding.where == name
                assert f"bytes {offset:,} to {offset + size:,}" in finding.message
                assert finding.hint
    assert num_named > 20


def test_a_damaged_pickle_that_still_decodes_is_said_to_be_untrustworthy(whole: Path, copy: Path) -> None:
    content = bytearray(whole.read_bytes())
    place = content.index(b"val_loss")
    content[place] ^= 0x20
    keep_time(copy, bytes(content))
    validation = validate(copy)
    assert validation.verdict == "damaged"
    assert "none of them can be trusted" in words_of(validation)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.99, 0.999])
def test_cut_at_any_size(share: float, whole: Path, copy: Path) -> None:
    content = whole.read_bytes()
    keep_time(copy, content[: int(len(content) * share)])
    validation = validate(copy)
    assert (validation.verdict, validation.levels["structure"]) == ("damaged", "fail")
    assert validation.findings[0].hint


def test_cut_at_every_byte_of_the_first_and_last_hundred(whole: Path, copy: Path) -> None:
    content = whole.read_bytes()
    for size in [*range(100), *range(len(content) - 100, len(content))]:
        keep_time(copy, content[:size])
        assert validate(copy, levels=("structure",)).verdict == "damaged", size


def test_a_cut_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.randn(30, 30), "b": torch.randn(7)}, path)
    content = path.read_bytes()
    for size in (1, 7, 8, 9, 50, len(content) // 2, len(content) - 1):
        keep_time(path, content[:size])
        assert validate(path).verdict == "damaged", size


def test_a_record_of_zeros_is_a_hole(tmp_path: Path) -> None:
    path = save(tmp_path / "w.pt", {"first": torch.randn(50), "lost": torch.randn(3000), "last": torch.randn(50)})
    content = bytearray(path.read_bytes())
    offset, size = next((o, s) for n, o, s in records(path) if s == 12000)
    content[offset : offset + size] = bytes(size)
    keep_time(path, bytes(content))
    validation = validate(path)
    assert (validation.verdict, codes(validation)) == ("damaged", {"hole"})
    assert "lost" in validation.findings[0].message
    assert "first" not in words_of(validation)


def test_zero_pages_inside_a_record_are_a_hole_with_its_place(tmp_path: Path) -> None:
    path = save(tmp_path / "w.pt", {"t": torch.randn(100_000)})
    content = bytearray(path.read_bytes())
    content[8192 : 8192 + 3 * 4096] = bytes(3 * 4096)
    keep_time(path, bytes(content))
    validation = validate(path)
    assert codes(validation) == {"hole"}
    assert "bytes 8,192 to 20,480 are zeros" in validation.findings[0].message


def test_holes_where_no_checksum_tells(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.randn(1000, 37), "b": torch.randn(100_003)}, path)
    content = bytearray(path.read_bytes())
    content[3 * 4096 : 5 * 4096] = bytes(2 * 4096)
    keep_time(path, bytes(content))
    validation = validate(path)
    assert (validation.verdict, validation.levels["integrity"], codes(validation)) == ("damaged", "fail", {"hole"})
    assert "bytes 12,288 to 20,480" in words_of(validation)


def test_a_tail_of_zeros_that_begins_inside_a_tensor_is_a_hole(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.randn(1000, 37), "b": torch.randn(100_003)}, path)
    content = bytearray(path.read_bytes())
    start = len(content) // 2 // 4096 * 4096
    content[start:] = bytes(len(content) - start)
    keep_time(path, bytes(content))
    assert codes(validate(path)) == {"hole"}


def test_honest_zeros_are_not_holes(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    embedding = torch.randn(64, 1024)
    embedding[5:8] = 0
    save_file({"a": embedding, "b": torch.zeros(5000), "c": torch.randn(100), "d": torch.zeros(9, 9)}, path)
    validation = validate(path)
    assert (validation.verdict, codes(validation)) == ("valid", {"no-checksums"})
    state = {"zero": torch.zeros(5000), "one": torch.ones(4)}
    assert validate(save(tmp_path / "w.pt", state)).verdict == "valid"


def test_a_long_tail_of_zero_tensors_is_pointed_out_not_condemned(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.randn(100), "z": torch.zeros(50_000)}, path)
    validation = validate(path)
    assert (validation.verdict, codes(validation)) == ("valid", {"zero-tail", "no-checksums"})


def test_skipped_data_is_said_never_to_have_been_written(tmp_path: Path) -> None:
    with torch.serialization.skip_data():
        path = save(tmp_path / "w.pt", {"t": torch.randn(1000)})
    validation = validate(path)
    assert (validation.verdict, codes(validation)) == ("damaged", {"never-written"})


@pytest.mark.parametrize("size", [1, 4096, 3_000_000])
def test_a_file_of_zeros(size: int, tmp_path: Path) -> None:
    keep_time(tmp_path / "latest.pt", bytes(size))
    validation = validate(tmp_path / "latest.pt")
    assert (validation.verdict, codes(validation)) == ("damaged", {"hole"})


def test_an_empty_file(tmp_path: Path) -> None:
    keep_time(tmp_path / "latest.pt", b"")
    validation = validate(tmp_path / "latest.pt")
    assert (validation.verdict, codes(validation)) == ("damaged", {"empty"})


def test_trailing_data_is_pointed_out(whole: Path, copy: Path) -> None:
    keep_time(copy, whole.read_bytes() + b"extra")
    validation = validate(copy)
    assert any("trailing" in code for code in codes(validation)) or validation.verdict == "damaged"


# --- being written


def test_a_file_that_is_still_growing_is_incomplete(whole: Path, tmp_path: Path) -> None:
    content, path = whole.read_bytes(), tmp_path / "latest.pt"
    path.write_bytes(content[:1000])
    stop = threading.Event()

    def write_on() -> None:
        with open(path, "ab", buffering=0) as file:
            for place in range(1000, len(content) - 1000):
                if stop.wait(0.002):
                    return
                file.write(content[place : place + 1])

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        validation = validate(path)
    finally:
        stop.set()
        writer.join()
    assert (validation.verdict, codes(validation)) == ("incomplete", {"still-growing"})


def test_a_file_that_changes_while_it_is_read_is_incomplete(copy: Path) -> None:
    def touch(_: int) -> None:
        os.utime(copy, (1, 1))

    validation = validate(copy, on_bytes=touch)
    assert (validation.verdict, codes(validation)) == ("incomplete", {"still-growing"})


# --- what is no checkpoint


def test_not_there_no_permission_and_other_things(tmp_path: Path) -> None:
    assert validate(tmp_path / "nothing.pt").verdict == "unreadable"
    os.mkfifo(tmp_path / "pipe")
    assert validate(tmp_path / "pipe").verdict == "unreadable"
    assert validate_checkpoint("a\0b").verdict == "unreadable"


@pytest.mark.parametrize("content", [b"hello\n", b"\x7fELF\x02" + bytes(100), b'{"a": 1}', bytes(range(200, 255))])
def test_not_a_checkpoint(content: bytes, tmp_path: Path) -> None:
    keep_time(tmp_path / "x.pt", content)
    assert validate(tmp_path / "x.pt").verdict == "not-a-checkpoint"


def test_a_checkpoint_that_lost_its_head_or_its_pickles_name_is_damaged(whole: Path, copy: Path) -> None:
    content = whole.read_bytes()
    keep_time(copy, b"XX" + content[2:])
    assert validate(copy).verdict == "damaged"
    keep_time(copy, content.replace(b"/data.pkl", b"/dXta.pkl"))
    assert validate(copy).verdict == "damaged"


def test_another_kind_of_archive_is_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("word/document.xml", "text")
    assert validate(tmp_path / "x.zip").verdict == "not-a-checkpoint"


def test_a_pickle_that_names_something_dangerous_is_unsafe(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.system, ("touch " + str(tmp_path / "executed"),))

    validation = validate(save(tmp_path / "w.pt", {"w": torch.ones(2), "p": Payload()}))
    assert validation.verdict == "unsafe"
    assert "system" in words_of(validation)
    assert not (tmp_path / "executed").exists()
