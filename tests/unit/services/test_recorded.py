"""What a run's records say of a checkpoint file, and when they are not about it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ckpt_tui.services.recorded import NOTHING, RecordedFacts, recorded_facts

TS = 1_790_000_000.0


def write_log(directory: Path, *events: dict[str, object]) -> None:
    lines = [json.dumps({"v": 1, "seq": i, "ts": TS + i, "session": 1, **e}) for i, e in enumerate(events)]
    (directory / "events.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "latest.pt"
    path.write_bytes(b"x" * 100)
    os.utime(path, (TS, TS))
    return path


def saved(**fields: object) -> dict[str, object]:
    base: dict[str, object] = {"event": "checkpoint_saved", "step": 5, "path": "latest.pt", "bytes": 100}
    return {**base, "digest": "crc32:0a", **fields}


def test_the_last_save_counts(file: Path) -> None:
    write_log(file.parent, saved(digest="crc32:01", step=4), saved(), {"event": "step", "step": 6, "loss": 1})
    assert recorded_facts(str(file)) == RecordedFacts("crc32:0a", 5, True)


def test_names_that_share_the_content(file: Path) -> None:
    write_log(file.parent, saved(path="rolling_step_000005.pt", names=["rolling_step_000005.pt", "latest.pt"]))
    assert recorded_facts(str(file)).digest == "crc32:0a"


def test_another_size_a_restore_or_no_record_say_nothing(file: Path) -> None:
    assert recorded_facts(str(file)) == NOTHING
    write_log(file.parent, saved(bytes=101))
    assert recorded_facts(str(file)) == NOTHING
    write_log(file.parent, saved(), {"event": "checkpoint_restored", "step": 5, "path": "latest.pt"})
    assert recorded_facts(str(file)) == NOTHING
    write_log(file.parent, saved(path="other.pt"))
    assert recorded_facts(str(file)) == NOTHING
    assert recorded_facts(str(file.parent / "gone.pt")) == NOTHING


def test_a_file_written_since_is_not_certain(file: Path) -> None:
    write_log(file.parent, saved())
    os.utime(file, (TS + 100, TS + 100))
    facts = recorded_facts(str(file))
    assert not facts.is_certain
    assert facts.digest_for(has_own_checksums=True) is None
    assert facts.digest_for(has_own_checksums=False) == "crc32:0a"


def test_which_digest_is_worth_checking() -> None:
    assert RecordedFacts("crc32:1", 5, True).digest_for(has_own_checksums=True) == "crc32:1"
    assert RecordedFacts("sha256:1", 5, True).digest_for(has_own_checksums=True) is None
    assert RecordedFacts("sha256:1", 5, True).digest_for(has_own_checksums=False) == "sha256:1"
    assert NOTHING.digest_for(has_own_checksums=False) is None


def test_garbage_in_the_log_is_passed_over(file: Path) -> None:
    write_log(file.parent, saved())
    with open(file.parent / "events.jsonl", "ab") as log:
        log.write(b'{"event": "checkpoint_saved", "path": "latest.pt", torn\xff\n\x00\x00\n')
    assert recorded_facts(str(file)).digest == "crc32:0a"
