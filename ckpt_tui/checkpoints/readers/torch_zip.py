"""torch.save's zip archives: `*/data.pkl` decoded inertly, one stored record per storage.

Left out of the state: what stands beside a container and not in it, which is the `_metadata` of a state dict (versions
of its modules), and attributes of tensors that hold no tensor. Their globals are judged all the same.
"""

from __future__ import annotations

from ckpt_tui.checkpoints.exact_read import read_exactly
from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint, Finding, Severity
from ckpt_tui.checkpoints.readers.zip_records import HINT, PickleBudget, add_pickle, join_storages
from ckpt_tui.checkpoints.state_walk import name_tensors
from ckpt_tui.checkpoints.zip_index import ZipEntry, ZipIndex, read_zip_index
from ckpt_tui.errors import CkptError
from ckpt_tui.text import count, plural, safe_text, size

_MAX_PICKLES = 16  # each is decoded; a hostile archive has a million


class TorchZipReader:
    """`.pt .pth .bin .ckpt` as torch has written them since 1.6, and every other zip archive: by the names of its
    records a sibling module reads it."""

    formats: tuple[str, ...] = ("torch-zip", "torchscript", "torch-export", "torch-package", "npz")

    def sniff(self, head: bytes, file_bytes: int) -> str | None:
        return "torch-zip" if head[:4] in (b"PK\x03\x04", b"PK\x05\x06") else None

    def read(self, descriptor: int, file_bytes: int, path: str, limits: ReadLimits, base: int = 0) -> Checkpoint:
        """base: where the archive begins, for one of several in a file."""
        index = read_zip_index(descriptor, file_bytes, path, limits, base)
        return self.read_records(descriptor, file_bytes, path, limits, index, base)

    def read_records(
        self, descriptor: int, file_bytes: int, path: str, limits: ReadLimits, index: ZipIndex, base: int = 0
    ) -> Checkpoint:
        """The same, of records that are known already: salvage finds them without a central directory."""
        entries, findings = index.entries, index.findings
        by_name = {entry.name: entry for entry in entries}
        first = entries[0].name if entries else ""
        root = first[: first.find("/") + 1]  # where torch looks: the folder of the first record
        # torch does not tell capitals from small letters: it takes DATA.PKL where that comes first.
        candidates = [entry for entry in entries if entry.name.endswith(_L)]
        pickles = [entry for entry in candidates if entry.name.rpartition("/")[2].lower() == "data.pkl"]
        sibling = "" if base else _sibling(entries, by_name, root, bool(pickles))  # one inside another goes no deeper
        if sibling:
            module = __import__(f"ckpt_tui.checkpoints.readers.{sibling}", fromlist=["read"])
            found: Checkpoint = module.read(descriptor, file_bytes, path, limits, index, by_name)
            if sibling != "torch_package":
                _judge_hidden(descriptor, pickles, found, limits)
            return found
        if not pickles:
            names = ", ".join(safe_text(entry.name, 40) for entry in entries[:3])
            raise CkptError(
                "Not a checkpoint",
                f"{path} is a zip archive without a data.pkl (it holds {names or 'nothing'})",
                "If a program wrote it as a checkpoint, name the program in an issue.",
            )
        checkpoint = Checkpoint(path, "torch-zip", file_bytes, findings=findings)
        outside = [entry.name for entry in entries if not entry.name.startswith(root)] if root else [first]
        if outside:
            where = f"the folder {safe_text(root[:-1], 80)}" if root else "a folder"
            message = f"{plural(len(outside), 'record')} not in {where}: torch refuses such an archive"
            findings.append(Finding("outside-folder", Severity.WARNING, outside[0], message, HINT))
        in_root = f"{root}data.pkl".lower()
        if not outside and all(entry.name.lower() != in_root for entry in pickles):
            message = f"torch looks for {safe_text(root, 80)}data.pkl, which is not there"
            findings.append(Finding("outside-folder", Severity.WARNING, pickles[0].name, message, HINT))
        pickles.sort(key=lambda entry: entry.name.lower() != in_root)
        budget = PickleBudget(checkpoint, is_nested=base > 0)
        prefix = _decode_every(descriptor, pickles, checkpoint, limits, budget)
        for note in ("version", "byteorder"):
            entry = by_name.get(prefix + note)
            if entry is not None and entry.offset is not None and entry.method == 0 and entry.size_bytes <= 64:
                raw = read_exactly(descriptor, entry.size_bytes, entry.offset, path)
                checkpoint.metadata[note] = raw.decode("ascii", "replace").strip()
        if prefix == root and root and f"{prefix}version" not in by_name and f"{prefix}.data/version" not in by_name:
            message = "it has no record called version, which torch.save always writes: torch refuses it"
            findings.append(Finding("no-version", Severity.WARNING, prefix, message, HINT))
        constants = f"{prefix}constants.pkl".lower()
        if f"{prefix}code/__torch__.py" in by_name or any(entry.name.lower() == constants for entry in candidates):
            from ckpt_tui.checkpoints.readers.torchscript import add_torchscript

            add_torchscript(descriptor, checkpoint, entries, prefix, limits, budget)
        checkpoint.tensors += name_tensors(checkpoint.state, limits, findings)
        join_storages(checkpoint, prefix, by_name)
        return checkpoint


_L = ("l", "L")  # how every pickle's name ends; asked first, of 30,000 names


def _sibling(entries: list[ZipEntry], by_name: dict[str, ZipEntry], root: str, has_pickle: bool) -> str:
    """The module that reads this archive, by names of records that only its kind has; "" for one of torch.save."""
    if f"{root}.data/extern_modules" in by_name:
        return "torch_package"
    if f"{root}archive_format" in by_name or "serialized_exported_program.json" in by_name:
        return "torch_export"
    if has_pickle and not entries[0].name.endswith(".npy"):
        return ""
    return "numpy_files" if any(entry.name.endswith(".npy") for entry in entries) else ""


def _judge_hidden(descriptor: int, pickles: list[ZipEntry], checkpoint: Checkpoint, limits: ReadLimits) -> None:
    """torch.load takes the data.pkl of any archive, also of one that is another format by its other records."""
    if not pickles:
        return
    message = "a data.pkl in an archive of another kind: torch.load takes it for a checkpoint of its own"
    checkpoint.findings.append(Finding("several-formats", Severity.ERROR, pickles[0].name, message, HINT))
    _check_amount(pickles, checkpoint.path, limits)
    budget = PickleBudget(checkpoint)
    for entry in pickles:
        add_pickle(descriptor, entry, checkpoint, limits, budget)


def _check_amount(pickles: list[ZipEntry], path: str, limits: ReadLimits) -> None:
    total = sum(max(entry.size_bytes, entry.compressed_bytes) for entry in pickles)
    if len(pickles) > _MAX_PICKLES or total > limits.max_pickle_bytes:
        raise CkptError(
            "Not readable",
            f"{path} holds {count(len(pickles))} data.pkl of {size(total)}: more than a checkpoint can need",
            "It may have been made to harm.",
        )


def _decode_every(
    descriptor: int, pickles: list[ZipEntry], checkpoint: Checkpoint, limits: ReadLimits, budget: PickleBudget
) -> str:
    """Fill state and globals; gives the prefix of the records that belong to the state.

    Programs disagree which of several data.pkl they load, so each is decoded and its globals judged. The first that
    decodes is shown; one that does not is an error, and the end only when none does.
    """
    findings = checkpoint.findings
    shown: ZipEntry | None = None
    _check_amount(pickles, checkpoint.path, limits)
    first_error: CkptError | None = None
    for entry in pickles:
        decoded = add_pickle(descriptor, entry, checkpoint, limits, budget)
        if isinstance(decoded, CkptError):
            first_error = first_error or decoded
        elif shown is None:
            shown = entry
            checkpoint.state = decoded.root
            if entry.method == 0 and entry.offset is not None:
                head = read_exactly(descriptor, min(entry.size_bytes, 2), entry.offset, checkpoint.path)
                checkpoint.metadata["pickle_protocol"] = head[1] if head[:1] == b"\x80" else 0
    if shown is None:
        assert first_error is not None
        raise first_error
    if len({entry.name.lower() for entry in pickles}) > 1:
        message = f"{count(len(pickles))} records are called data.pkl, {shown.name} is shown; torch.save writes one"
        findings.append(Finding("several-pickles", Severity.WARNING, shown.name, message, HINT))
    return shown.name[: -len("data.pkl")]


READER = TorchZipReader()
