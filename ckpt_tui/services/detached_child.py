"""The first thing that a detached training's process runs: it puts itself in order, writes down that it is there, and
becomes the training (exec keeps its pid and its start time).

A program of its own (`python -I -S detached_child.py`), not a fork of the viewer: that has threads. It knows nothing
but the order on its stdin, and loads nothing but the standard library. Until the whole order has come nothing happens,
and before the record of it is on the disk the training does not run: who started it may be killed at any moment, and
there is never a training that nobody knows of.
"""

import json
import os
import signal
import sys
from typing import Any

FAILED = 125


def main(arguments: list[str]) -> int:
    """argv: the descriptor on which a failure is told, and that of the lock (-1: none); both close when it has become
    the training. A failure is `{"stage": cwd, record or exec, "errno": N}`."""
    told, lock = int(arguments[0]), int(arguments[1])
    for descriptor in (told, lock):
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)
    order = _read_order()
    if order is None:
        return FAILED  # who starts it died before it had said all
    stage = "cwd"
    try:
        _forget_the_viewer()
        os.chdir(_bytes(order["cwd"]))
        stage = "record"
        _write(_bytes(order["record_path"]), _bytes(order["record"]), order["record_mode"])
        stage = "exec"
        argv = [_bytes(word) for word in order["argv"]]
        os.execvpe(argv[0], argv, {_bytes(key): _bytes(value) for key, value in order["environment"].items()})
    except OSError as error:
        os.write(told, json.dumps({"stage": stage, "errno": error.errno}).encode())
    return FAILED


def encoded(order: dict[str, Any]) -> bytes:
    """An order as this program reads it. Text of the file system keeps every byte, whatever the locales say."""
    return json.dumps(_in_latin(order)).encode() + b"\n"


def _in_latin(value: Any) -> Any:
    if isinstance(value, dict):
        return {_in_latin(key): _in_latin(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_in_latin(one) for one in value]
    return os.fsencode(value).decode("latin-1") if isinstance(value, str) else value


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")


def _read_order() -> Any:
    pieces = []
    while piece := os.read(0, 1 << 16):
        pieces.append(piece)
    try:
        return json.loads(b"".join(pieces))
    except ValueError:
        return None


def _forget_the_viewer() -> None:
    """What a viewer under `nohup`, or one that reads keys, has changed: a training that ignores Ctrl+C or SIGHUP
    because of it, or has SIGTERM blocked, could not be stopped."""
    for number in signal.valid_signals():
        try:
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            continue  # SIGKILL, SIGSTOP, and those of the C library's own
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    if nothing > 2:
        os.close(nothing)


def _write(path: bytes, data: bytes, mode: int) -> None:
    """As `services.files.write_file`: whole, and on the device, or not at all."""
    temporary = os.path.join(os.path.dirname(path), b".%s.tmp-%d" % (os.path.basename(path), os.getpid()))
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
    directory = os.open(os.path.dirname(path) or b".", os.O_RDONLY)
    try:
        os.fsync(directory)
    except OSError:
        pass  # a file system that cannot
    finally:
        os.close(directory)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
