"""`registry.json` of a run directory, as the trainer writes it: read with distrust, changed along with the files.

The registry is derived from the files: an entry counts only while size and time agree with its file, and the trainer
builds it anew when it is missing or wrong. So whatever here does not look as expected is left out, never an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping

from ckpt_tui.events import checksum
from ckpt_tui.events.lineage import Lineage, as_plain, read_lineage
from ckpt_tui.records import dataclass
from ckpt_tui.regular_file import open_regular
from ckpt_tui.services.names import BEST_NAME, NameFacts, read_name

REGISTRY_NAME = "registry.json"
MAX_REGISTRY_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """What the registry says of one file. mtime: of the file when it was entered, Unix seconds; None when not told."""

    name: str
    step: int | None
    epoch: float | None
    val_loss: float | None
    size_bytes: int | None
    mtime: float | None
    saved_at: float | None
    digest: str
    is_best: bool
    session: int = 0
    session_id: str = ""

    def describes(self, status: os.stat_result) -> bool:
        """Whether the file is still the one that was entered: same size, and same time where the registry has it."""
        return self.describes_content(status.st_size, status.st_mtime)

    def describes_content(self, size_bytes: int, mtime: float) -> bool:
        """The same of a directory: its bytes without the manifest's, and the time of that."""
        if self.size_bytes != size_bytes:
            return False
        return self.mtime is None or abs(self.mtime - mtime) < 1e-3


def read_registry(directory: str) -> list[RegistryEntry]:
    """The entries of the registry in `directory`; empty when there is none or it makes no sense."""
    raw = _load(directory)
    return [entry for fields in _rows(raw) if (entry := _entry(fields)) is not None] if raw is not None else []


def stored_lineage(directory: str) -> Lineage | None:
    """The lineage of the run, as the registry in `directory` has it."""
    raw = _load(directory)
    return read_lineage(raw.get(_LINEAGE)) if raw is not None else None


def stored_policy(directory: str) -> Mapping[str, object] | None:
    """By which rules the run's checkpoints are kept, as the registry in `directory` has it; None where there is no
    registry of our trainer, {} where it does not say."""
    raw = _load(directory)
    if raw is None:
        return None
    policy = raw.get("policy")
    return policy if isinstance(policy, dict) else {}


def changed_registry(
    directory: str,
    removed: frozenset[str],
    copied: Mapping[str, str],
    lineage: Lineage | None = None,
    best_score: float | None = None,
) -> bytes | None:
    """The registry after files changed hands, to be written with them; None when there is none to keep right.

    removed: names that are no longer there. copied: for a name, the name whose content it now has. Entries of copies
    whose source is not in the registry are left out: the trainer finds the file and enters it. lineage: the branch
    that the run is on from now on, None: as before. best_score: that of the file which is the best from now on, None
    when that is as before or not known.
    """
    raw = _load(directory)
    if raw is None:
        return None
    rows = _rows(raw)
    by_name = {row[_PATH]: row for row in rows if isinstance(row.get(_PATH), str)}
    kept = [row for row in rows if row.get(_PATH) not in removed and row.get(_PATH) not in copied]
    for name, source in copied.items():
        known = by_name.get(source)
        if known is not None:
            # A copy has its source's time and digest: they are those of the content. Its inode is not known before
            # it is in place; without one the trainer looks at the file itself.
            is_best = name in (BEST_NAME, BEST_NAME.removesuffix(".pt"))
            row = {**known, _PATH: name, "kind": _kind_of(name, known), "is_best": is_best}
            facts = _facts_of(name)
            row.update({"is_backup": bool(facts and facts.is_backup)} if "is_backup" in known else {})
            row.update({"inode": None} if "inode" in known else {})
            kept.append(row)
    raw[_LIST] = kept
    if lineage is not None:
        raw[_LINEAGE] = as_plain(lineage)
    if best_score is not None:
        _put_best_back(raw, best_score)
    raw[checksum.KEY] = checksum.checksum_of(raw)
    return json.dumps(raw, indent=1, ensure_ascii=False).encode() + b"\n"


def new_registry(lineage: Lineage, made: Iterable[tuple[str, int, int, int, str]]) -> bytes:
    """A registry that says on which branch the run is; what else it could say, the trainer finds in the files.

    made: (name, step, bytes, session, session id) of the checkpoints: sessions that a registry does not tell of are
    taken for ones that went on since it was written.
    """
    rows = [
        {
            _PATH: name,
            "kind": _kind_of(name, {}),
            "step": step,
            "bytes": size_bytes,
            "session": session,
            "session_id": i,
        }
        for name, step, size_bytes, session, i in made
    ]
    raw: dict[str, object] = {_SCHEMA_KEY: _SCHEMA, "best": {}, _LINEAGE: as_plain(lineage), _LIST: rows}
    raw[checksum.KEY] = checksum.checksum_of(raw)
    return json.dumps(raw, indent=1).encode() + b"\n"


def _put_best_back(raw: dict[str, object], score: float) -> None:
    """Tell the trainer that the best is another one: the checkpoints that it resumes from still claim the score of the
    one that was taken back, and by that no later best would be one."""
    best = raw.get("best")
    claimed = _number(best.get("value")) if isinstance(best, dict) else None
    if not isinstance(best, dict) or claimed is None or claimed == score:
        return
    rows = raw.get(_PUT_BACK)
    earlier = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    told = {"metric": best.get("metric"), "mode": best.get("mode"), "value": score, "instead_of": claimed}
    raw[_PUT_BACK] = [*(row for row in earlier if row.get("instead_of") != score), told][-_MAX_PUT_BACK:]
    raw["best"] = {**best, "value": score}


_PUT_BACK = "best_put_back"
_MAX_PUT_BACK = 64
_SCHEMA_KEY, _SCHEMA = "schema", "ckpt-tui/registry/1"
_LIST = "checkpoints"
_PATH = "path"
_LINEAGE = "lineage"


def _kind_of(name: str, known: Mapping[str, object]) -> object:
    facts = _facts_of(name)
    return facts.kind if facts is not None else known.get("kind")


def _facts_of(name: str) -> NameFacts | None:
    return read_name(name) or read_name(name, is_directory=True)


def _load(directory: str) -> dict[str, object] | None:
    path = os.path.join(directory, REGISTRY_NAME)
    try:
        with open_regular(path) as file:
            raw = json.loads(file.read(MAX_REGISTRY_BYTES + 1)[: MAX_REGISTRY_BYTES + 1])
    except (OSError, ValueError, RecursionError):
        return None
    return raw if isinstance(raw, dict) and checksum.is_as_written(raw) else None


def _rows(raw: Mapping[str, object]) -> list[dict[str, object]]:
    rows = raw.get(_LIST)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _entry(fields: Mapping[str, object]) -> RegistryEntry | None:
    name = fields.get(_PATH)
    if not isinstance(name, str) or not name:
        return None
    metrics = fields.get("metrics")
    val_loss = metrics.get("val_loss") if isinstance(metrics, dict) else fields.get("val_loss")
    size, step = fields.get("bytes"), fields.get("step")
    return RegistryEntry(
        name=name,
        step=step if isinstance(step, int) and not isinstance(step, bool) else None,
        epoch=_number(fields.get("epoch")),
        val_loss=_number(val_loss),
        size_bytes=size if isinstance(size, int) else None,
        mtime=_number(fields.get("mtime")),
        saved_at=_number(fields.get("time")),
        digest=str(fields.get("digest") or ""),
        is_best=fields.get("is_best") is True,
        session=session if isinstance(session := fields.get("session"), int) else 0,
        session_id=str(fields.get("session_id") or ""),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
