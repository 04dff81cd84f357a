"""Whether this machine ends a person's processes when they log out, and what then keeps a training alive.

systemd-logind does, where `KillUserProcesses=yes`: a session of its own does not help, the whole group of processes
that came of the login is killed. What runs under the person's own service manager lives on, while that does: with
lingering on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ckpt_tui.records import dataclass

_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Logout:
    """What a logout does to a training started now. kills: it ends it; lingers: the person's service manager stays."""

    kills: bool = False
    lingers: bool = False

    @property
    def warning(self) -> str:
        """What a person must know, "" for nothing."""
        if not self.kills or self.lingers:
            return ""
        return (
            "This machine ends your processes when you log out (KillUserProcesses=yes, lingering is off): the training "
            "ends then, too. `loginctl enable-linger` first, or ask an administrator for it."
        )

    def surviving(self, command: Sequence[str]) -> list[str]:
        """`command`, or what starts it where a logout does not reach it (systemd-run becomes it: the pid stays)."""
        if self.kills and self.lingers and shutil.which("systemd-run"):
            return ["systemd-run", "--user", "--scope", "--quiet", "--collect", "--", *command]
        return list(command)


def look() -> Logout:
    """Ask logind, in a login session; what cannot be asked is taken for the usual: processes stay."""
    if os.geteuid() == 0 or not _is_login_session():  # root is excluded from it (KillExcludeUsers=root)
        return Logout()
    told = _told("busctl", "get-property", "org.freedesktop.login1", "/org/freedesktop/login1",
                 "org.freedesktop.login1.Manager", "KillUserProcesses")  # fmt: skip
    if told != "b true":
        return Logout()
    return Logout(kills=True, lingers=_told("loginctl", "show-user", str(os.getuid()), "-p", "Linger") == "Linger=yes")


def _is_login_session() -> bool:
    if os.environ.get("XDG_SESSION_ID"):
        return True
    try:
        return "session-" in Path("/proc/self/cgroup").read_text()
    except OSError:
        return False


def _told(*command: str) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""
    return done.stdout.strip()
