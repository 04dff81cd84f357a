"""A process is known by the kernel's own count of its start, whatever the clock says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ckpt_tui.process_identity import ProcessIdentity, process_is_alive

pytestmark = pytest.mark.skipif(
    not Path("/proc/sys/kernel/random/boot_id").exists(), reason="this system does not tell"
)

AN_HOUR = 3600.0
OTHER_BOOT = "00000000-0000-4000-8000-000000000000"


def ticks_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def with_birth(process: ProcessIdentity, *, boot: str = "", spaces: str = "", ticks: str = "") -> ProcessIdentity:
    told = process.birth.split("/")
    return replace(process, birth="/".join(new or old for new, old in zip((boot, spaces, ticks), told, strict=True)))


def test_it_is_what_the_kernel_tells() -> None:
    me = ProcessIdentity.of()
    assert (me.pid, me.host) == (os.getpid(), socket.gethostname())
    boot, spaces, ticks = me.birth.split("/")
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert spaces.split("-")[0] in str(Path("/proc/self/ns/pid").readlink())
    assert ticks == ticks_of(os.getpid())
    assert me.pid_started == pytest.approx(psutil.Process().create_time(), abs=1.5)
    assert ProcessIdentity.of(os.getpid()) == me
    nobody = ProcessIdentity.of(2**22 + 5)
    assert (nobody.pid_started, nobody.birth) == (0.0, "")


@pytest.mark.parametrize("shift_s", [0.0, AN_HOUR, -AN_HOUR])
def test_a_clock_that_was_set_changes_nobody(shift_s: float) -> None:
    me = ProcessIdentity.of()
    shifted = replace(me, pid_started=me.pid_started + shift_s)
    assert process_is_alive(shifted) is True
    assert shifted.is_same(me)
    # And what was recorded without the kernel's count goes by the clock, as ever.
    by_clock = replace(shifted, birth="")
    assert process_is_alive(by_clock) is (shift_s == 0.0)
    assert by_clock.is_same(me) is (shift_s == 0.0)


def test_a_later_process_with_its_number_is_another_one_though_the_clock_says_it_is_the_same() -> None:
    me = ProcessIdentity.of()
    earlier = with_birth(me, ticks=str(int(ticks_of(os.getpid())) - 1))
    assert process_is_alive(earlier) is False
    assert not earlier.is_same(me)


@pytest.mark.parametrize(
    ("boot", "spaces", "host", "is_alive"),
    [
        ("", "", "elsewhere", None),  # machines that were copied as they ran have one boot id
        (OTHER_BOOT, "", "", False),  # it was started anew
        (OTHER_BOOT, "", "elsewhere", None),
        ("", "4026532999-4026531834", "", None),  # a container that shares our name, as with --network=host
        ("", "4026532999-4026531834", "c0ffee", None),
    ],
)
def test_where_it_was_recorded(boot: str, spaces: str, host: str, is_alive: bool | None) -> None:
    me = ProcessIdentity.of()
    there = with_birth(replace(me, host=host or me.host), boot=boot, spaces=spaces)
    assert process_is_alive(there) is is_alive
    assert there.is_in_another_container is (bool(spaces) and not host)


@pytest.mark.parametrize(
    "birth", ["", "x", "//", "a/b/", "a/b/-1", "a/b/1e3", "/b/1", f"a/b/{'9' * 30}", "\x1b[2J/b/c"]
)
def test_a_birth_that_is_none_leaves_it_to_the_clock(birth: str) -> None:
    me = replace(ProcessIdentity.of(), birth=birth)
    assert process_is_alive(me) is True
    assert process_is_alive(replace(me, pid_started=1.0)) is False
    assert process_is_alive(replace(me, pid_started=0.0)) is True
    assert not me.is_in_another_container


def test_one_that_has_ended_is_dead_before_and_after_somebody_has_waited_for_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    it = ProcessIdentity.of(child.pid)
    assert process_is_alive(it) is True
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert ProcessIdentity.of(child.pid) == it, "a zombie still is who it was"
    assert process_is_alive(it) is False
    child.communicate()
    assert process_is_alive(it) is False
    assert ProcessIdentity.of(child.pid) != it


def test_one_that_may_not_be_seen_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """`hidepid`: /proc does not show the processes of others."""
    hidden = replace(ProcessIdentity.of(), pid=2**22 + 7)
    assert process_is_alive(hidden) is False

    def kill(pid: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "kill", kill)
    assert process_is_alive(hidden) is None


@pytest.mark.parametrize("pid", [0, -1])
def test_nobody_is_neither_alive_nor_dead(pid: int) -> None:
    assert process_is_alive(ProcessIdentity(pid)) is None
    assert process_is_alive(replace(ProcessIdentity.of(), pid=pid)) is None


def test_a_record_of_it_is_read_as_it_was_written() -> None:
    me = ProcessIdentity.of()
    told = json.loads(json.dumps({**me.fields(), "more": 1}))
    assert set(told) == {"pid", "pid_started", "host", "pid_birth", "more"}
    assert ProcessIdentity.from_fields(told) == me
    assert ProcessIdentity.from_fields({f"child_{name}": value for name, value in told.items()}, "child_") == me
    old = {"pid": 7, "pid_started": 5, "host": "far"}
    assert ProcessIdentity.from_fields(old) == ProcessIdentity(7, 5.0, "far")


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"pid": 7}, {"pid": "7", "pid_started": 1.0}, {"pid": True, "pid_started": 1.0},
        {"pid": 7.5, "pid_started": 1.0}, {"pid": None, "pid_started": 1.0}, {"pid": 7, "pid_started": "x"},
        {"pid": 7, "pid_started": float("nan")}, {"pid": 7, "pid_started": float("inf")},
        {"pid": 7, "pid_started": -1.0}, {"pid": 7, "pid_started": 10**400},
    ],
)  # fmt: skip
def test_what_is_no_record_of_one(fields: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, OverflowError)):
        ProcessIdentity.from_fields(fields)


WRITES = "import json; from ckpt_tui.process_identity import ProcessIdentity as P; " + (
    "print(json.dumps(P.of().fields()), flush=True); input()"
)


@pytest.mark.parametrize("kind", [("--pid", "--mount-proc"), ("--time",)])
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs namespaces of its own")
def test_one_in_a_container_is_not_dead_for_who_looks_from_outside(kind: tuple[str, ...]) -> None:
    offset = ["--boottime", "100000"] if kind == ("--time",) else []
    command = ["unshare", *kind, *offset, "--fork", "--kill-child", sys.executable, "-c", WRITES]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as inside:
        assert inside.stdout is not None
        line = inside.stdout.readline()
        if not line:
            pytest.skip("no namespaces are to be had here")
        it = ProcessIdentity.from_fields(json.loads(line))
        try:
            assert it.host == socket.gethostname()
            assert it.is_in_another_container
            assert process_is_alive(it) is None
        finally:
            inside.communicate()
