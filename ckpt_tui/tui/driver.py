"""Keys from a terminal, none of them lost.

Textual hands a key to what has the focus when it comes, however many before it are still on their way: of `e5e-4`
in one packet the digits reached the list and not the field that `e` opens, as keys of their own. Here each is handed
over when what the one before led to is done.

A terminal sends the same bytes for Alt+e as for Escape and then e. Textual takes what comes within 0.1 s of an Escape
(on a busy machine or a slow line: much later) for one key with Alt, which means nothing here: both were lost, and of
Escape and Enter only the Enter was left, which starts what a person wanted to leave. Here it is two keys. And Textual
ends with a traceback at a byte that is not UTF-8 (an old mouse protocol, a Latin-1 terminal).
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from textual import events
from textual._parser import ParseError, ParseTimeout
from textual._xterm_parser import BRACKETED_PASTE_END, BRACKETED_PASTE_START, XTermParser
from textual.drivers.linux_driver import LinuxDriver

if TYPE_CHECKING:
    from textual.message import Message
    from textual.message_pump import MessagePump

ESCAPE = "\x1b"
PASTE_ENDS_S = 1.0  # a paste of which nothing more came: a broken line shall not take every key from then on
PATIENCE_S = 10.0  # with an action that does not end
COMES_UP_WITHIN_S = 2.0  # what an act shows first; on a disk that hangs a person can leave
_BEGIN_SEQUENCES = "[O" + ESCAPE
# A word back or forth, or deleted: what fields understand, and people have in their fingers.
_ALT_IN_FIELDS = "bf\x7f"


class KeysParser(XTermParser):
    """alt_keys: characters that mean something with Alt. is_typing: whether a field has the focus."""

    def __init__(
        self, debug: bool = False, *, alt_keys: frozenset[str] = frozenset(), is_typing: Callable[[], bool] = bool
    ) -> None:
        self._alt_keys = alt_keys
        self._is_typing = is_typing
        self._is_after_escape = False
        self._paste: str | None = None
        self._paste_grew = 0.0
        super().__init__(debug)

    def feed(self, data: str) -> Iterator[Message]:
        if not data:
            yield from super().feed(data)
        while data:
            if self._paste is None:
                keys, begin, data = data.partition(BRACKETED_PASTE_START)
                yield from self._feed_keys(keys)
                self._paste = "" if begin else None
                continue
            searched = max(len(self._paste) - len(BRACKETED_PASTE_END), 0)
            self._paste, data = self._paste + data, ""
            self._paste_grew = time.monotonic()
            end = self._paste.find(BRACKETED_PASTE_END, searched)
            if end >= 0:
                data = self._paste[end + len(BRACKETED_PASTE_END) :]
                yield self._pasted(self._paste[:end])

    def tick(self) -> Iterator[Message]:
        if self._paste is not None and time.monotonic() - self._paste_grew > PASTE_ENDS_S:
            yield self._pasted(self._paste)
        yield from super().tick()

    def _pasted(self, text: str) -> events.Paste:
        self._paste = None
        return events.Paste(text.replace("\x00", ""))

    def _feed_keys(self, text: str) -> Iterator[Message]:
        while text:
            if self._is_after_escape and self._awaiting.timeout is not None:
                if self._is_key(text[0]):
                    yield from self._time_out()
                elif text[0] in self._alt_keys:
                    yield from super().feed(text[0])
                    yield from self._time_out()
                    text = text[1:]
                    self._is_after_escape = False
                    continue
            head, escape, text = text.partition(ESCAPE)
            self._is_after_escape = bool(escape)
            yield from super().feed(head + escape)

    def _is_key(self, character: str) -> bool:
        """Whether a character after an Escape is a key by itself."""
        if character in _BEGIN_SEQUENCES or character in self._alt_keys:
            return False
        return not (character in _ALT_IN_FIELDS and self._is_typing())

    def _time_out(self) -> Iterator[Message]:
        """No more of a sequence comes: what came were keys."""
        self._timeout_time = None
        self._awaiting = self._gen.throw(ParseTimeout())
        while self._tokens:
            yield self._tokens.popleft()

    def _sequence_to_key_events(self, sequence: str, alt: bool = False) -> Iterable[events.Key]:
        if alt and sequence not in self._alt_keys:
            yield events.Key("escape", ESCAPE)
            alt = False
        yield from super()._sequence_to_key_events(sequence, alt=alt)


def alt_keys_of(keymap: Mapping[str, str]) -> frozenset[str]:
    """The characters that a person's own keys have with Alt."""
    pressed = [one for keys in keymap.values() for one in keys.split(",") if one.startswith("alt+")]
    return frozenset(
        last.upper() if "shift+" in one else last for one in pressed if len(last := one.rpartition("+")[2]) == 1
    )


class InOrder:
    """Mixed into a driver: hands the app what was typed, each key when what the one before did is done."""

    _app: Any
    _loop: asyncio.AbstractEventLoop

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._typed: deque[Message] = deque()
        self._handing_over: asyncio.Task[None] | None = None

    def send_message(self, message: Message) -> None:
        if isinstance(message, (events.InputEvent, events.Paste)):
            self._loop.call_soon_threadsafe(self.take, message)
        else:
            super().send_message(message)  # type: ignore[misc]

    def take(self, event: Message) -> None:
        """In the app's own thread."""
        self._typed.append(event)
        if self._handing_over is None or self._handing_over.done():
            self._handing_over = self._loop.create_task(self._hand_over())

    async def _hand_over(self) -> None:
        while self._typed:
            event = self._typed.popleft()
            self._app.post_message(event)
            if not isinstance(event, events.MouseEvent) or isinstance(event, events.MouseUp):
                await settled(self._app)


async def settled(app: Any) -> None:
    """Until what a key has led to is done: its action, the messages of that, the screen and the focus that came of it.

    The first round brings the key to its action, the second what that posted to those who hear it. What came up with a
    focus of its own, or gave it to another, is waited for, too, and so is the first that an act shows: while it looks
    at the files, an Enter for its dialog would open what lies below.
    """
    from textual.app import ScreenError

    try:
        async with asyncio.timeout(PATIENCE_S):
            await _turn(app)  # the key is now where it belongs
            num_rounds = 0
            while True:
                screen, focused = app.screen, app.focused
                # From the inside out: what each has told those around it is with them when it is their turn.
                for pump in (focused or screen).ancestors_with_self:
                    await _turn(pump)
                if (coming := getattr(app, "coming", None)) is not None:
                    await asyncio.wait({coming}, timeout=COMES_UP_WITHIN_S)
                    app.coming = None if app.coming is coming else app.coming
                    num_rounds = 0
                num_rounds += 1
                if num_rounds > 1 and (screen, focused) == (app.screen, app.focused):
                    return
    except (TimeoutError, ScreenError):
        return  # something hangs: the next key may be the one that leaves it


async def _turn(pump: MessagePump) -> None:
    """Until it has handled what it has been told so far, or is no more."""
    turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(_: object = None) -> None:
        if not turn.done():
            turn.set_result(None)

    if not pump.call_later(end):
        return
    task = pump._task
    if task is not None:
        task.add_done_callback(end)
    try:
        await turn
    finally:
        if task is not None:
            task.remove_done_callback(end)


class TerminalDriver(InOrder, LinuxDriver):
    """Textual's, but for how it reads, how it hands over, and how it goes on after it was stopped."""

    def _sigcont_application(self, *args: Any) -> None:
        """Textual starts another thread that reads and one that writes, also where there are some (after a SIGSTOP) and
        while it is left. Of two that read, one never ends, and the process with it."""
        app: Any = self._app
        if app.is_closing:
            return
        reads = self._key_thread
        if reads is not None and reads.is_alive():
            self.exit_event.set()
            reads.join()
            self.exit_event.clear()
        if self._writer_thread is not None:
            self._writer_thread.stop()
        super()._sigcont_application(*args)

    def run_input_thread(self) -> None:
        app: Any = self._app
        parser = KeysParser(self._debug, alt_keys=alt_keys_of(app.settings.keymap), is_typing=lambda: is_typing(app))
        decode = getincrementaldecoder("utf-8")(errors="replace").decode
        is_last = False
        try:
            while not is_last:
                is_last = self.exit_event.is_set()  # once more, for what was sent before
                if select.select([self.fileno], [], [], 0.1)[0]:
                    content = os.read(self.fileno, 4096)
                    if not content:  # the terminal is gone: tui/hangup.py ends the process
                        return
                    text = decode(content, final=is_last)
                    for event in parser.feed(text) if text else ():
                        self.process_message(event)
                for event in parser.tick():
                    self.process_message(event)
        except OSError:  # gone, too
            return
        finally:
            try:
                for _ in parser.feed(""):
                    pass
            except (EOFError, ParseError):
                pass


def is_typing(app: Any) -> bool:
    """Whether a field has the focus."""
    from textual.app import ScreenError

    try:
        return any(cls.__name__ == "Input" for cls in type(app.focused).__mro__)  # its module may not be loaded
    except ScreenError:
        return False
