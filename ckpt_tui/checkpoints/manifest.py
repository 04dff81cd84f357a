"""`manifest.json` of a checkpoint directory: bytes and digest of every file, as they were when it was saved.

The bundled trainer writes it into each directory that it makes, or makes safe for Hugging Face's Trainer. With it, a
changed byte is seen in files that have no checksums of their own: safetensors, JSON, YAML.
"""

from __future__ import annotations

from ckpt_tui.checkpoints.model import Finding, Severity
from ckpt_tui.checkpoints.readers.directory import Listing, is_inside
from ckpt_tui.errors import CkptError
from ckpt_tui.events import checksum
from ckpt_tui.records import dataclass
from ckpt_tui.text import count, safe_text

MANIFEST_NAME = "manifest.json"
_SCHEMA = "ckpt-tui/manifest/"
_MAX_BYTES = 16 << 20
_MAX_FINDINGS = 100
_HINT = "Do not train on from it. `ckpt-tui list` on its directory shows which checkpoints are valid."


@dataclass(frozen=True, slots=True)
class Manifest:
    """digests: `algorithm:hex` by file, of those that are there with the bytes that they had. findings: the others."""

    digests: dict[str, str]
    findings: tuple[Finding, ...] = ()


NONE = Manifest({})


def manifest_of(directory: str) -> Manifest:
    """What the manifest of a checkpoint directory says; `NONE` when there is none of ours. Raises CkptError, OSError
    when the directory cannot be listed."""
    from ckpt_tui.checkpoints.bounded_json import parse_json

    listing = Listing(directory)
    if MANIFEST_NAME not in listing.files:
        return NONE
    try:
        content = parse_json(listing.read_text(MANIFEST_NAME, _MAX_BYTES), MANIFEST_NAME)
    except CkptError as error:
        what = (error.message or error.title).replace(f"{listing.path_of(MANIFEST_NAME)}: ", "")
        return Manifest({}, (_finding("unreadable-part", MANIFEST_NAME, what),))
    if not isinstance(content, dict) or not str(content.get("schema", "")).startswith(_SCHEMA):
        return NONE  # somebody else's file of that name
    if not _is_as_written(content):
        return Manifest({}, (_finding("unreadable-part", MANIFEST_NAME, "its checksum differs"),))
    digests: dict[str, str] = {}
    findings: list[Finding] = []
    rows = content.get("files")
    for row in rows if isinstance(rows, list) else []:
        file, size_bytes, digest = _fields(row)
        if not is_inside(file):
            continue
        found = listing.files.get(file)
        if found is None and not listing.is_cut:
            findings.append(_finding("missing-part", file, "it is not there, and was saved with the others"))
        elif found is not None and found != size_bytes:
            what = f"it has {count(found)} bytes, {count(size_bytes)} were saved"
            findings.append(_finding("wrong-size", file, what))
        elif found is not None:
            digests[file] = digest
    return Manifest(digests, tuple(findings[:_MAX_FINDINGS]))


def _is_as_written(content: dict[str, object]) -> bool:
    try:
        return checksum.is_as_written(content)
    except (TypeError, ValueError, RecursionError):
        return False


def _fields(row: object) -> tuple[str, int, str]:
    if isinstance(row, dict):
        file, size_bytes, digest = row.get("path"), row.get("bytes"), row.get("digest")
        if isinstance(file, str) and type(size_bytes) is int and isinstance(digest, str):
            return file, size_bytes, digest
    return "", 0, ""


def _finding(code: str, file: str, message: str) -> Finding:
    return Finding(code, Severity.ERROR, safe_text(file, 200), message, _HINT)
