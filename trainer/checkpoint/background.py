"""One piece of work at a time in a thread of its own, and lines for a person from wherever it runs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class Background:
    """The thread is a new one for each piece, and not a daemon: a process that ends waits for the last save."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Callable[[], object]) -> None:
        """Do it there; first waits for what is there already. `work` must not raise."""
        self.wait()
        thread = threading.Thread(target=work, name="checkpoint")
        try:
            thread.start()
        except RuntimeError:  # no more threads: at the end of the interpreter, or of what the system allows
            work()
        else:
            self._thread = thread

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None


class Lines:
    """Hands lines to `say` in the thread that made this; those of other threads wait for `deliver`."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._owner = threading.get_ident()
        self._waiting: deque[str] = deque()

    def tell(self, line: str) -> None:
        if threading.get_ident() == self._owner:
            self.deliver()
            self._say(line)
        else:
            self._waiting.append(line)

    def deliver(self) -> None:
        while self._waiting:
            self._say(self._waiting.popleft())
