"""Fixtures of the screens' tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.errors import CkptError
from ckpt_tui.tui import base_app
from ckpt_tui.tui.screens import inspect as inspect_module
from ckpt_tui.tui.screens.inspect_text import derive
from tests.builders import quiet_pilot


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet_pilot.use(monkeypatch)
    # Words that go after six seconds would be gone where the machine was paused for as long: they go with a key here.
    monkeypatch.setattr(base_app, "SAID_FOR_S", 3600.0)


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> Callable[[Checkpoint | CkptError], None]:
    def give(what: Checkpoint | CkptError) -> None:
        def open_it(path: str) -> Any:
            if isinstance(what, CkptError):
                raise what
            return derive(what)

        monkeypatch.setattr(inspect_module, "open_for_inspection", open_it)

    return give
