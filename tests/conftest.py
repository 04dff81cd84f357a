"""Every test is hermetic: its own home and cache, no colour or width from outside, one clock zone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `long` run when they are asked for: `-m long`."""
    if "long" not in config.option.markexpr:
        skip = pytest.mark.skip(reason="takes long: run with -m long")
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def hermetic(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home: Path = tmp_path_factory.mktemp("home")
    for name, value in {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "TZ": "UTC",
        "TEXTUAL_ANIMATIONS": "none",
        "PYTHONHASHSEED": "0",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "CKPT_TUI_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    time.tzset()
