"""Every test is hermetic: a home and cache of its own, no colour, width or cluster from outside, one zone, one seed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Same seed, same result; and no limit of time, as a machine is busy when it likes.
settings.register_profile(
    "same everywhere",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("same everywhere")

_FROM_OUTSIDE = re.compile(
    r"NO_COLOR|FORCE_COLOR|COLUMNS|LINES|CKPT_TUI_\w+|TMUX|STY|SSH_\w+|XDG_SESSION_ID|SYSTEMD_EXEC_PID|VIRTUAL_ENV|"
    r"RANK|LOCAL_RANK|WORLD_SIZE|MASTER_\w+|SLURM_\w+|PET_\w+|TORCHELASTIC_\w+|MLFLOW_\w+|HF_HOME"
)
_OURS = re.compile(r"CKPT_TUI_(SNAPSHOTS|BENCH)\w*")  # said to the tests, not to what they test


def pytest_configure(config: pytest.Config) -> None:
    """Also what is imported, and what fixtures of a session start, sees nothing from outside; nor what is inherited
    besides the environment: a job in the background of a shell ignores Ctrl-C."""
    for name in list(os.environ):
        if _FROM_OUTSIDE.fullmatch(name) and not _OURS.fullmatch(name):
            del os.environ[name]
    home = Path(tempfile.mkdtemp(prefix="ckpt-tui-tests-home-"))
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    os.environ.update(_at_home(home), TZ="UTC", TEXTUAL_ANIMATIONS="none", PYTHONHASHSEED="0")
    os.umask(0o022)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _at_home(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "XDG_CONFIG_HOME": str(home / "config")}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `long` run when they are asked for: `-m long`."""
    if "long" not in config.option.markexpr:
        skip = pytest.mark.skip(reason="takes long: run with -m long")
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes directories with the names that pytest gives them; its own way looks through all that are there, which
    takes 5 ms when there are thousands."""
    base = tmp_path_factory.getbasetemp()
    nexts: Counter[str] = Counter()

    def make(name: str) -> Path:
        while True:
            path = base / f"{name}{nexts[name]}"
            nexts[name] += 1
            try:
                path.mkdir(mode=0o700)
            except FileExistsError:
                continue
            return path

    return make


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, numbered: Callable[[str], Path]) -> Path:
    return numbered(re.sub(r"\W", "_", request.node.name)[:30])


@pytest.fixture(autouse=True)
def hermetic(numbered: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _at_home(numbered("home")).items():
        monkeypatch.setenv(name, value)
    time.tzset()  # a test before may have been in another zone
