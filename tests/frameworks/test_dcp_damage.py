"""Damaged, unfinished and hostile directories of torch.distributed.checkpoint: each gets a finding, at little cost."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch

from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.registry import open_checkpoint, sniff
from ckpt_tui.checkpoints.validate import validate_checkpoint
from ckpt_tui.errors import CkptError
from tests.builders import distributed
from tests.builders.distributed import SAMPLE
from tests.builders.pace import cpu_time


def codes(checkpoint: Checkpoint) -> list[str]:
    return [finding.code for finding in checkpoint.findings]


def test_without_its_metadata_the_save_never_finished(one: Path) -> None:
    (one / ".metadata").unlink()
    assert sniff(one) == "dcp"
    with pytest.raises(CkptError) as caught:
        open_checkpoint(one)
    assert "the save never finished" in caught.value.message
    assert "1 .distcp file" in caught.value.message


def test_a_missing_file_names_the_tensors_that_are_lost(two: Path) -> None:
    (two / "__0_0.distcp").unlink()
    checkpoint = open_checkpoint(two)
    (finding,) = checkpoint.findings
    assert (finding.code, finding.where) == ("missing-part", "__0_0.distcp")
    assert "model.weight" in finding.message
    readable = {t.name for t in checkpoint.tensors if t.storage and checkpoint.storages[t.storage].offset is not None}
    assert "model.weight.chunks.0" not in readable
    assert "model.weight.chunks.1" in readable
    assert checkpoint.progress == {"step": 7}


def test_a_short_file_names_what_it_lost_and_keeps_the_rest(one: Path) -> None:
    path = one / "__0_0.distcp"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    checkpoint = open_checkpoint(one)
    (finding,) = checkpoint.findings
    assert finding.code == "truncated"
    assert f"{len(whole) // 2:,} bytes" in finding.message
    lost = {t.name for t in checkpoint.tensors if t.storage and checkpoint.storages[t.storage].offset is None}
    kept = {t.name for t in checkpoint.tensors} - lost
    assert lost
    assert kept
    assert checkpoint.progress["step"] == 7


class Change:
    """Writes `.metadata` again after torch's own objects in it were changed."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / ".metadata"

    def __enter__(self):  # type: ignore[no-untyped-def]
        self.metadata = pickle.loads(self.path.read_bytes())
        return self.metadata

    def __exit__(self, *_: object) -> None:
        self.path.write_bytes(pickle.dumps(self.metadata, 4))


def place_of(metadata, name: str):  # type: ignore[no-untyped-def]
    return next(info for index, info in metadata.storage_data.items() if index.fqn == name)


@pytest.mark.parametrize("name", ["../../outside.distcp", "/etc/passwd", "a/../../x", ""])
def test_a_path_that_leads_out_is_refused(one: Path, name: str) -> None:
    with Change(one) as metadata:
        place_of(metadata, "rng_state").relative_path = name
    checkpoint = open_checkpoint(one)
    assert "outside" in codes(checkpoint)
    assert all(storage.file == "__0_0.distcp" or storage.offset is None for storage in checkpoint.storages.values())


def test_pieces_that_do_not_make_up_the_tensor_are_found(two: Path) -> None:
    with Change(two) as metadata:
        del metadata.state_dict_metadata["model.weight"].chunks[1]
        metadata.state_dict_metadata["model.bias"].chunks[1].offsets = torch.Size([3])
        metadata.state_dict_metadata["columns"].chunks[1].offsets = torch.Size([0, 4])
    found = {finding.where: finding.message for finding in open_checkpoint(two).findings}
    assert found["model.weight"] == "1 piece: 12 of its 28 elements are in none of them"
    assert "overlap at [3]" in found["model.bias"]
    assert "reaches beyond its shape" in found["columns"]


def test_pieces_that_claim_the_same_bytes_are_not_read(one: Path) -> None:
    with Change(one) as metadata:
        place_of(metadata, "rng_state").offset -= 8
    assert "pieces-overlap" in codes(open_checkpoint(one))


def test_a_place_of_another_tensor_is_noticed(one: Path) -> None:
    with Change(one) as metadata:
        place_of(metadata, "rng_state").__dict__.update(place_of(metadata, "model.0.weight").__dict__)
    (finding,) = open_checkpoint(one).findings
    assert finding.code == "piece-differs"
    assert finding.where == "rng_state"


def test_a_tensor_without_a_place_is_lost(one: Path) -> None:
    with Change(one) as metadata:
        metadata.storage_data = {i: info for i, info in metadata.storage_data.items() if i.fqn != "rng_state"}
    checkpoint = open_checkpoint(one)
    assert codes(checkpoint) == ["missing-chunk"]
    tensor = next(tensor for tensor in checkpoint.tensors if tensor.name == "rng_state")
    assert checkpoint.storages[tensor.storage].offset is None


def test_a_compressed_piece_is_said_not_to_be_readable_in_place(one: Path) -> None:
    with Change(one) as metadata:
        place_of(metadata, "rng_state").transform_descriptors = ["stream.zstd"]
    (finding,) = open_checkpoint(one).findings
    assert finding.code == "unreadable-storage"
    assert "stream.zstd" in finding.message


def test_a_payload_in_any_of_its_pickles_is_named(one: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return __import__("os").system, (f"touch {marker}",)

    bad = tmp_path / "bad"
    distributed.dcp(bad, {"step": 1, "extra": Payload()})
    in_value = open_checkpoint(bad)
    with Change(one) as metadata:
        metadata.planner_data = Payload()
    in_metadata = open_checkpoint(one)
    assert in_value.safety == in_metadata.safety == "dangerous"
    assert {ref.name for ref in in_value.globals if ref.verdict == "dangerous"} == {"posix.system"}
    assert not marker.exists()


def test_a_file_of_another_save_is_told(one: Path) -> None:
    shutil.copy(one / "__0_0.distcp", one / "__1_0.distcp")
    (finding,) = open_checkpoint(one).findings
    assert (finding.code, finding.where) == ("unlisted-part", "__1_0.distcp")


def test_names_that_a_path_cannot_hold_end_nowhere_else(one: Path) -> None:
    """Keys that contradict each other keep every value, under its full name."""
    with Change(one) as metadata:
        metadata.planner_data["step"] = ("model", "0.weight", "below a tensor")
        metadata.planner_data["epoch"] = ("nested", "a", 10**9)
    checkpoint = open_checkpoint(one)
    state = checkpoint.state
    assert isinstance(state, dict)
    assert state["step"] == 7
    assert state["nested"]["a"][10**9] == 1


@pytest.mark.parametrize("offset", [2**63, 2**70, -1])
def test_a_place_that_no_file_can_have_is_a_finding(one: Path, offset: int) -> None:
    with Change(one) as metadata:
        place_of(metadata, "rng_state").offset = offset
    assert codes(open_checkpoint(one)) in (["truncated"], ["missing-chunk", "metadata-odd"])


class Bombs:
    """Metadata of some kB that claims as much as it can."""

    @staticmethod
    def the_same_pieces_for_every_tensor(metadata) -> None:  # type: ignore[no-untyped-def]
        item = metadata.state_dict_metadata["rng_state"]
        item.chunks = item.chunks * 5000
        metadata.state_dict_metadata.update({f"t{number}": item for number in range(5000)})

    @staticmethod
    def pieces_that_all_meet(metadata) -> None:  # type: ignore[no-untyped-def]
        from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorStorageMetadata

        properties = metadata.state_dict_metadata["model.0.weight"].properties
        boxes = [ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([1, 1])) for _ in range(1000)]
        for number in range(20):
            item = TensorStorageMetadata(properties, torch.Size([1, 1000]), list(boxes))
            metadata.state_dict_metadata[f"t{number}"] = item

    @staticmethod
    def a_path_of_containers_for_every_name(metadata) -> None:  # type: ignore[no-untyped-def]
        tail = tuple("abcdefgh" * 7)
        metadata.planner_data = {name: (name, *tail) for name in metadata.state_dict_metadata}
        for number in range(20_000):
            metadata.state_dict_metadata[f"b{number}"] = metadata.state_dict_metadata["step"]
            metadata.planner_data[f"b{number}"] = (f"b{number}", *tail)

    @staticmethod
    def a_shape_beyond_everything(metadata) -> None:  # type: ignore[no-untyped-def]
        metadata.state_dict_metadata["rng_state"].size = torch.Size([2**62] * 60)
        metadata.state_dict_metadata["rng_state"].chunks[0].sizes = torch.Size([2**62] * 60)
        metadata.state_dict_metadata["rng_state"].chunks[0].offsets = torch.Size([0] * 60)

    @staticmethod
    def a_long_name_for_many_pieces(metadata) -> None:  # type: ignore[no-untyped-def]
        item = metadata.state_dict_metadata["rng_state"]
        metadata.state_dict_metadata["n" * 100_000] = type(item)(
            item.properties,
            torch.Size([3000]),
            [type(item.chunks[0])(torch.Size([i]), torch.Size([1])) for i in range(3000)],
        )


BOMBS = [name for name in vars(Bombs) if not name.startswith("_")]


@pytest.mark.parametrize("name", BOMBS)
def test_metadata_that_claims_too_much_costs_little(one: Path, name: str) -> None:
    import resource

    with Change(one) as metadata:
        getattr(Bombs, name)(metadata)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with cpu_time() as took:
        try:
            said = [finding.message for finding in open_checkpoint(one).findings]
        except CkptError as error:
            said = [error.message]
    assert name == "a_path_of_containers_for_every_name" or said
    assert took.seconds < 3  # a second as a rule
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_every_rank_may_write_its_own_metadata(two: Path) -> None:
    """`use_collectives=False` leaves `__0.metadata`, `__1.metadata`, each with the pieces of its rank."""
    for rank in (0, 1):
        shutil.copy(two / ".metadata", two / f"__{rank}.metadata")
        change = Change(two)
        change.path = two / f"__{rank}.metadata"
        with change as metadata:
            file = f"__{rank}_0.distcp"
            metadata.storage_data = {i: p for i, p in metadata.storage_data.items() if p.relative_path == file}
            kept = {(index.fqn, index.offset) for index in metadata.storage_data}
            for name, item in list(metadata.state_dict_metadata.items()):
                if hasattr(item, "chunks"):
                    item.chunks = [chunk for chunk in item.chunks if (name, chunk.offsets) in kept]
                    if not item.chunks:
                        del metadata.state_dict_metadata[name]
                elif (name, None) not in kept:
                    del metadata.state_dict_metadata[name]
    (two / ".metadata").unlink()
    checkpoint = open_checkpoint(two)
    assert checkpoint.findings == []
    expected = open_checkpoint(SAMPLE)
    assert {t.name: t.shape for t in checkpoint.tensors} == {t.name: t.shape for t in expected.tensors}


def test_a_sound_one_passes_every_level(saved: Path) -> None:
    result = validate_checkpoint(str(saved))
    assert (result.verdict, result.format, result.step) == ("valid", "dcp", 7)
    assert result.levels == {"structure": "pass", "integrity": "not-checked", "numbers": "pass", "resume": "pass"}
    assert result.bytes_checked >= (saved / "__0_0.distcp").stat().st_size


def test_a_flipped_bit_in_any_record_of_any_piece_is_found(two: Path) -> None:
    from ckpt_tui.checkpoints.archive import read_archive

    path = two / "__1_0.distcp"
    whole = path.read_bytes()
    archive = read_archive(str(path))
    assert archive is not None
    records = [record for record in archive.records if record.size_bytes]
    assert len(records) > 100
    for number, record in enumerate(records[::5]):
        raw = bytearray(whole)
        raw[record.offset + (7 * number) % record.size_bytes] ^= 1 << number % 8
        path.write_bytes(raw)
        result = validate_checkpoint(str(two), levels=("structure", "integrity"))
        assert result.levels["integrity"] == "fail" or result.levels["structure"] == "fail", record
        assert result.verdict in ("damaged", "unsafe")


def test_damage_in_a_piece_names_the_tensor(two: Path) -> None:
    checkpoint = open_checkpoint(two)
    piece = next(tensor for tensor in checkpoint.tensors if tensor.name == "model.weight.chunks.1")
    storage = checkpoint.storages[piece.storage]
    assert storage.offset is not None
    path = two / storage.file
    raw = bytearray(path.read_bytes())
    raw[storage.offset] ^= 1
    path.write_bytes(raw)
    result = validate_checkpoint(str(two))
    assert result.verdict == "damaged"
    (finding,) = [finding for finding in result.findings if finding.level == "integrity"]
    assert finding.where.startswith("__1_0.distcp")
    assert "model.weight.chunks.1" in finding.message


def test_the_first_nan_of_a_tensor_in_pieces_is_where_it_is_in_the_whole(two: Path) -> None:
    """`columns` is 3 x 5, cut into 3 + 2 columns: row 1 of the second piece begins at element 8 of the whole."""
    from ckpt_tui.checkpoints.values import count_nonfinite

    checkpoint = open_checkpoint(two)
    whole = next(tensor for tensor in checkpoint.tensors if tensor.name == "columns")
    piece = next(tensor for tensor in checkpoint.tensors if tensor.name == "columns.chunks.1")
    storage = checkpoint.storages[piece.storage]
    assert storage.offset is not None
    assert piece.shape == (3, 2)
    path = two / storage.file
    raw = bytearray(path.read_bytes())
    at = storage.offset + 4 * (piece.offset + piece.stride[0])
    raw[at : at + 4] = torch.tensor(torch.nan).numpy().tobytes()
    path.write_bytes(raw)
    counted = count_nonfinite(checkpoint, whole)
    assert (counted.nan, counted.first_bad_index) == (1, 8)


def test_nan_in_a_piece_is_counted(tmp_path: Path) -> None:
    state = {"model": {"weight": torch.tensor([1.0, torch.nan, torch.inf])}}
    distributed.dcp(tmp_path, state)
    result = validate_checkpoint(str(tmp_path))
    assert result.verdict == "nonfinite"
    (finding,) = [finding for finding in result.findings if finding.level == "numbers"]
    assert finding.where == "model.weight"
    assert "1 NaN and 1 Inf of 3" in finding.message
