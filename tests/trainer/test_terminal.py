"""What a person sees of a training: in real terminals (tmux), in pipes and files, and when nobody listens."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_tui.events.schema import Best, CheckpointSaved, Eval, Nonfinite, RunEnd, Step
from tests.builders.stand_ins import wait_for
from tests.e2e.terminal import Terminal, require_tmux
from trainer.standing import Standing
from trainer.terminal import Outlet
from trainer.terminal import Terminal as Told

REPO = Path(__file__).parents[2]

# The trainer's terminal without torch: what happens is told as the loop tells it.
DRIVER = """
import os, sys, time
open("pid", "w").write(str(os.getpid()))
from ckpt_tui.events.schema import Best, CheckpointSaved, Eval, Nonfinite, Step
from trainer.terminal import Terminal
terminal = Terminal(print_seconds=float(sys.argv[2]))
terminal.say("[red]not markup[/red] \\x1b]0;title\\x07 runs/caf\\u00e9")
terminal.begin("gpt", 2000, 0)
for step in range(1, int(sys.argv[1]) + 1):
    time.sleep(0.005)
    terminal.at_step(step)
    if step == 140:
        open("reached", "w").close()
    if step % 10 == 0:
        terminal.on_event(Step(step=step, metrics={"loss": 5 - step / 1000, "lr": 2e-3, "tokens_per_s": 48900.0}))
    if step == 40:
        terminal.on_event(Eval(step=step, metrics={"val_loss": 2.378}, seconds=0.05))
        terminal.on_event(Best(step=step, metric="val_loss", value=2.378))
        terminal.on_event(CheckpointSaved(step=step, path="rolling_step_000040.pt", bytes=258_000_000,
                                          stall_seconds=0.012, save_seconds=0.1))
        terminal.on_event(Nonfinite(step=step, what="loss", action="skipped"))
        print("printed by somebody else")
while len(sys.argv) > 3:  # a person looks at it until it is ended
    time.sleep(0.05)
    terminal.at_step(step)
terminal.close()
print("the end")
"""


def command(tmp_path: Path, num_steps: int, print_seconds: float = 10.0, *, stays: bool = False) -> list[str]:
    (tmp_path / "driver.py").write_text(DRIVER)
    words = ["env", f"PYTHONPATH={REPO}", sys.executable, "driver.py", str(num_steps), str(print_seconds)]
    return [*words, "stays"] if stays else words


@pytest.fixture
def driven(tmp_path: Path) -> Iterator[Terminal]:
    require_tmux()
    terminal = Terminal(tmp_path)
    terminal.run(command(tmp_path, 1500, stays=True))
    yield terminal
    terminal.close()


def test_on_a_terminal(driven: Terminal) -> None:
    wanted_above = (
        r"[red]not markup[/red] \x1b]0;title\x07 runs/café",
        "saved rolling_step_000040.pt 258.0 MB: stalled 12 ms, durable after 100 ms",
        "step 40: loss is not finite, skipped",
        "step 40: val_loss 2.378, took 50 ms, the best so far",
        "printed by somebody",
    )
    wanted_last = (
        ("━", "step ", " / 2,000", "eta "),
        ("loss 4.", "val 2.378", "best 2.378 @40", "lr 0.002", "steps/s", "48.9k tok/s"),
        ("saved 40", "ago", "at risk ", "1 skipped"),
    )

    def missing(screen: str) -> list[str]:
        rows = [row for row in screen.splitlines() if row]
        whole = " ".join(" ".join(rows).split())  # long lines wrap, between words
        last = zip(wanted_last, ["", "", "", *rows][-3:], strict=True)
        return [part for part in wanted_above if part not in whole] + [
            part for parts, row in last for part in parts if part not in row
        ]

    deadline = time.monotonic() + 240
    while missing(screen := driven.screen()):  # which may be seen in the midst of its change
        assert time.monotonic() < deadline, f"{missing(screen)} is not on\n{screen}"
        time.sleep(0.1)


def test_narrow_and_wide_again_leaves_no_ghosts(driven: Terminal) -> None:
    driven.wait_for("saved 40")
    for columns, rows in ((40, 12), (120, 40), (60, 5), (80, 24)):
        driven.resize(columns, rows)
        deadline = time.monotonic() + 120
        while True:
            time.sleep(0.3)
            screen = driven.screen().splitlines()
            frames = [row for row in screen if "━" in row and not row.startswith("$")]
            cut = [row for row in screen if len(row) > columns]
            if rows > 5 and len(frames) == 1 and not cut:
                break
            if rows == 5 and any(" % " in row and "loss" in row for row in screen):
                break
            assert time.monotonic() < deadline, "\n".join(screen)


def test_a_kill_leaves_a_usable_terminal(driven: Terminal, tmp_path: Path) -> None:
    driven.wait_for("saved 40")
    [pid] = [int(line) for line in (tmp_path / "pid").read_text().split()]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: driven.wait_for("Killed").split()[-1] == "$", "the shell did not come back")
    driven.type("tput cols; echo 'still' here")
    driven.press("Enter")
    screen = driven.wait_for("still here")
    prompt = next(row for row in screen.splitlines() if "tput cols" in row)
    assert prompt.startswith("$ "), screen
    assert driven.is_cursor_visible()


def test_in_the_background_it_leaves_the_terminal_to_the_shell(tmp_path: Path) -> None:
    require_tmux()
    terminal = Terminal(tmp_path)
    try:
        terminal.type(" ".join(command(tmp_path, 1500, stays=True)) + " &")
        terminal.press("Enter")
        terminal.wait_for("not markup", "printed by somebody else")
        wait_for(lambda: (tmp_path / "reached").exists(), "it did not go on")  # a hundred steps in the background
        screen = terminal.screen()
        assert "━" not in screen
        assert "saved rolling" not in screen  # routine
        assert "step 40: loss is not finite, skipped" in screen
        terminal.type("fg")
        terminal.press("Enter")
        terminal.wait_for("━", "saved 40", "at risk")
    finally:
        terminal.close()


def test_one_of_several_processes_tells_of_all(capfd: pytest.CaptureFixture[str]) -> None:
    told = Told(print_seconds=0, is_quiet=True)
    told.begin("gpt", 100, 0)
    told.on_event(Step(step=3, metrics={"loss": 1.0}))
    told.say("something")
    told.close()
    assert capfd.readouterr().out == ""


def test_a_log_file_has_neither_carriage_returns_nor_escape_codes(tmp_path: Path) -> None:
    with open(tmp_path / "out.log", "wb") as log:
        # Within so long a time that a machine that is paused does not come to a second line.
        subprocess.run(command(tmp_path, 100, 1e6), cwd=tmp_path, stdout=log, stderr=log, timeout=300, check=True)
    text = (tmp_path / "out.log").read_bytes()
    assert b"\r" not in text
    assert b"\x1b" not in text
    lines = text.decode().splitlines()
    assert lines[-1] == "the end"
    # One line of progress, not one for each tenth step: a log of a day is read, too.
    progress = [line for line in lines if "  step 10/2000  0 %  loss 4.9900  lr 2.00e-03" in line]
    assert len(progress) == len([line for line in lines if "/2000" in line]) == 1
    assert "at risk 10 steps" in progress[0]
    assert any(line.endswith("step 40: val_loss 2.378, took 50 ms, the best so far") for line in lines)


def test_every_told_step_where_that_is_asked_for(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, 100, 0), cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.count("/2000") == 10


@pytest.mark.parametrize("redirection", [">&-", "| head -1", "> /dev/full", "2>&- >&-"])
def test_nobody_listens(redirection: str, tmp_path: Path) -> None:
    words = " ".join(command(tmp_path, 60, 0)).replace("print(", "")
    script = f"{words} {redirection} ; echo ended ${{PIPESTATUS[0]}} >&2"
    (tmp_path / "driver.py").write_text(DRIVER.replace('print("the end")', "").replace("print(", "str("))
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True)
    assert "ended 0" in done.stderr


def test_a_reader_that_does_not_read_holds_nothing_up() -> None:
    """`| less`, Ctrl+S: a pipe that is full, and a terminal whose flow is stopped."""
    reading, writing = os.pipe()
    saved = os.dup(1)
    os.dup2(writing, 1)
    try:
        out = _outlet_on(1)
        for number in range(5000):  # with a write that waits for its reader it would never end
            out.write(f"line {number} {'x' * 80}\n")
        # What could not be printed waits, the oldest is dropped; a reader that comes back sees the newest.
        os.set_blocking(reading, False)
        os.read(reading, 1 << 20)
        out.flush()
        assert b"line 4999 " in os.read(reading, 1 << 20)
    finally:
        os.dup2(saved, 1)
        for fd in (saved, reading, writing):
            os.close(fd)
    controller, terminal = pty.openpty()
    try:
        termios.tcflow(terminal, termios.TCOOFF)
        out = _outlet_on(terminal)
        done = threading.Thread(target=lambda: [out.write("x" * 100) for _ in range(1000)], daemon=True)
        done.start()
        done.join(120)
        assert not done.is_alive()
        termios.tcflow(terminal, termios.TCOON)
        out.flush()
        assert os.read(controller, 10)
    finally:
        os.close(controller)
        os.close(terminal)


def _outlet_on(fd: int) -> Outlet:
    before = sys.stdout
    with open(fd, "w", closefd=False) as sys.stdout:
        try:
            return Outlet()
        finally:
            sys.stdout = before


@pytest.fixture
def too_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes after the first comes too fast, on a machine that is paused as well."""
    monkeypatch.setattr("trainer.terminal.ROUTINE_SECONDS", 1e6)


@pytest.mark.usefixtures("too_fast")
def test_routine_lines_that_come_too_fast_are_counted(capfd: pytest.CaptureFixture[str]) -> None:
    told = Told()
    told.begin("gpt", 100, 0)
    for step in range(50):
        told.on_event(CheckpointSaved(step=step, path=f"rolling_step_{step:06d}.pt", bytes=10, stall_seconds=0.001))
    told._last_routine.clear()
    told.on_event(CheckpointSaved(step=50, path="rolling_step_000050.pt", bytes=10, stall_seconds=0.001))
    told.close()
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].endswith("saved rolling_step_000050.pt 10 B: stalled 1 ms (and 49 more before)")


@pytest.mark.usefixtures("too_fast")
def test_the_last_save_is_told_at_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    told = Told()
    told.begin("gpt", 100, 0)
    for step in (10, 20, 30):
        told.on_event(CheckpointSaved(step=step, path=f"rolling_step_{step:06d}.pt", bytes=10, stall_seconds=0.001))
    told.on_event(RunEnd(step=30))
    told.close()
    first, last = capfd.readouterr().out.splitlines()
    assert "rolling_step_000010.pt" in first
    assert last.endswith("saved rolling_step_000030.pt 10 B: stalled 1 ms (and 1 more before)")


def test_an_event_that_makes_no_sense_is_shown_all_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    told = Told(print_seconds=0)
    told.begin("gpt", 0, 0)
    told.on_event(Eval(step=1))
    told.on_event(Best(step=1))
    told.on_event(Nonfinite(step=2, what="\x1b[2J", action="skipped"))
    told.on_event(Step(step=3, metrics={"loss": float("nan")}))
    told.close()
    assert "\x1b" not in capfd.readouterr().out


def test_standing_knows_pace_and_what_is_at_risk() -> None:
    standing = Standing()
    standing.begin("gpt", 1000, 100, durable_step=90)
    began = standing.started_at
    for step in range(101, 201):
        standing.at_step(step, began + (step - 100) * 0.5)
    assert standing.steps_per_s == pytest.approx(2.0)
    assert standing.eta_s() == pytest.approx(400.0)
    assert standing.at_risk(began + 50) == (110, 50.0)
    standing.saved(CheckpointSaved(step=180, save_seconds=8.0), began + 48.0)
    assert standing.at_risk(began + 50) == (20, 10.0)
    # A roll-back: nothing is at risk, and the pace is that of the new branch.
    standing.at_step(150, began + 51)
    assert standing.at_risk(began + 51)[0] == 0
    assert standing.steps_per_s is None


def test_rich_is_loaded_on_a_terminal_only(tmp_path: Path) -> None:
    code = (
        "import sys; from trainer.terminal import Terminal; t = Terminal(); t.begin('x', 10, 0); t.close();"
        "print({'rich', 'torch', 'textual'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == "set()"
