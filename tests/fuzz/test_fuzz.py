"""A short fuzz of every format in every run; `python -m tests.fuzz` goes on for as long as is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contracts import test_readers as contract
from tests.fuzz.__main__ import spoil
from tests.fuzz.corpus import corpus

_FORMATS = [*contract.BUILDERS, *getattr(contract, "DIRECTORY_BUILDERS", {})]
_MUTATIONS = 400


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("seeds")
    corpus(directory)
    return directory


@pytest.mark.parametrize("name", _FORMATS)
def test_spoiled_files_get_an_answer_or_an_error(seeds: Path, name: str) -> None:
    broken = spoil(seeds, name, seed=0, first=0, number=_MUTATIONS)
    assert not broken, "\n".join(report for _, report in broken.values())


def test_the_fuzzer_sees_what_breaks(seeds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(path: str) -> None:
        raise KeyError(path)

    monkeypatch.setattr("tests.fuzz.target.open_checkpoint", dies)
    broken = spoil(seeds, "safetensors", seed=0, first=0, number=3)
    assert [times for times, _ in broken.values()] == [3]
    assert "--only 0" in next(iter(broken.values()))[1]
