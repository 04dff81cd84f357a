"""What the watch and the screens of single files have in common: settings, colours, keys, copying, pictures."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.color import ColorSystem
from textual._compositor import ChopsUpdate, LayoutUpdate
from textual._context import active_message_pump
from textual.app import App
from textual.await_complete import AwaitComplete
from textual.binding import Binding
from textual.events import Event, InputEvent, Key, MouseDown, Paste
from textual.screen import Screen
from textual.timer import Timer

from ckpt_tui.errors import CkptError
from ckpt_tui.settings import Settings
from ckpt_tui.text import cell_width, fit, safe_text
from ckpt_tui.tui import keys, terminal, theme
from ckpt_tui.tui.wire import Encoded, Wire

if TYPE_CHECKING:
    from textual.widget import Widget

    from ckpt_tui.tui.app import CkptTuiApp
    from ckpt_tui.tui.copying import Copied

SAID_FOR_S = 6.0

_START_TAKES_S = 1.0
_PICTURE_TAKES_S = 0.3
INTERRUPTED = 130


class BaseApp(App[None]):
    """settings: what holds, flags and file together. env: for tests; the process's own otherwise."""

    TITLE = "ckpt-tui"

    def __init__(self, *, settings: Settings | None = None, env: Mapping[str, str] | None = None) -> None:
        env = os.environ if env is None else env
        self.is_served = terminal.is_web(env)
        self.settings = for_visitors(settings or Settings()) if self.is_served else settings or Settings()
        self.look = theme.choose(env, self.settings)
        with _no_color(self.look.palette == "none"):
            # Said before the theme is set: which filter takes colours out is decided here.
            super().__init__(ansi_color=True if self.look.ansi else None)
        self._wear(self.look)
        self._saying: Timer | None = None
        self._said_on: Widget | None = None
        self._ctrl_c_at = self._key_at = -SAID_FOR_S
        # When the newest key or click was pressed, which may be long before it is acted on; and for how long no key
        # had come before it.
        self.pressed_at, self.quiet_s = -SAID_FOR_S, SAID_FOR_S
        self.is_closing = False  # its screens are being taken apart
        self.coming: asyncio.Future[None] | None = None  # a screen that what was pressed last brings up, in a moment
        self.wire = Wire(is_plain=not self.look.unicode)
        self._is_shown = threading.Event()
        self.animation_level = "none"
        self._disable_tooltips = True  # nothing here has one: a widget less in every screen
        if self.settings.keymap:
            self.set_keymap(dict(self.settings.keymap))

    def on_mount(self) -> None:
        stdin = sys.__stdin__  # asked now: one that was hung up is no terminal
        terminal = stdin.fileno() if stdin is not None and not self.is_headless and stdin.isatty() else None
        self.set_timer(_START_TAKES_S, lambda: self._end_start(terminal))
        # Textual alone shows an empty terminal after Ctrl+Z from outside and `fg`.
        self.app_resume_signal.subscribe(self, lambda _: self.action_redraw(), immediate=True)
        if terminal is not None and threading.current_thread() is threading.main_thread():
            # Without these the terminal is left raw, with the mouse's reports in the shell that comes after.
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, partial(self.exit, return_code=128 + number))
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
                loop.add_signal_handler(signal.SIGHUP, self._hung_up, terminal)

    def _hung_up(self, terminal: int) -> None:
        """SIGHUP, as a rule because the terminal is gone; from `kill` it is there and shall be left in order."""
        from ckpt_tui.tui.hangup import EXIT_CODE, is_gone

        if is_gone(terminal):
            os._exit(EXIT_CODE)
        self.exit(return_code=EXIT_CODE)

    def _end_start(self, terminal: int | None) -> None:
        """From now on garbage is looked for, but not in what was loaded: that stays. And the terminal can go."""
        if not gc.isenabled():
            gc.freeze()
            gc.enable()
        if terminal is not None:
            from ckpt_tui.tui.hangup import leave_when_gone

            leave_when_gone(terminal)

    def _wear(self, look: theme.Look) -> None:
        self.look = look
        self.register_theme(theme.theme_of(look))
        self.theme = look.theme_name

    # -- what goes over the line (tui/wire.py) ------------------------------------------------------------------

    def get_driver_class(self) -> Any:
        found = super().get_driver_class()
        if found.__name__ not in ("LinuxDriver", "WebDriver"):
            return found
        from ckpt_tui.tui.driver import InOrder, TerminalDriver

        return TerminalDriver if found.__name__ == "LinuxDriver" else type("WebDriver", (InOrder, found), {})

    def _build_driver(self, *args: Any, **kwargs: Any) -> Any:
        driver: Any = super()._build_driver(*args, **kwargs)
        start = driver.start_application_mode

        def start_anew() -> None:
            self.wire.forget()  # at the start, and when the terminal was somebody else's in between
            start()

        driver.start_application_mode = start_anew
        return driver

    def _display(self, screen: Any, renderable: Any) -> None:
        """Send of a picture what the terminal does not show yet; nothing at all where it shows all of it."""
        driver: Any = self._driver
        is_sent = self._running and not (self._batch_count or self._closed or self.is_headless or driver is None)
        if is_sent and isinstance(renderable, (LayoutUpdate, ChopsUpdate)) and not driver.is_inline:
            colours = self.console._color_system or ColorSystem.TRUECOLOR
            text = self.wire.encode(renderable, *self.size, colours)
            cursor = screen.outer_size.clamp_offset(self.cursor_position)
            renderable = Encoded(text) if text or cursor != self._previous_cursor_position else None
        super()._display(screen, renderable)
        if is_sent and renderable is not None:
            self._is_shown.set()

    def wait_for_picture(self) -> None:
        """In a thread: until the first picture was sent, but not for long: who has no terminal sends none."""
        if not self.is_headless:
            self._is_shown.wait(_PICTURE_TAKES_S)

    def _get_screen(self, screen: Any) -> Any:
        """Give a screen its classes by size before it is arranged; Textual does after, and all of it jumps."""
        found, mounted = super()._get_screen(screen)
        if not found.is_attached or not found.stack_updates:
            for dimension, axis in zip(self.size, ("HORIZONTAL_BREAKPOINTS", "VERTICAL_BREAKPOINTS"), strict=True):
                own = getattr(found, axis)
                points = getattr(self, axis) if own is None else own
                found.add_class(*found._get_breakpoint_classes(dimension, points or []))
        return found, mounted

    def say(self, words: str, role: str = "accent") -> None:
        """A word about what was done, on the last line of the screen or in a dialog's frame for a while: a line, and
        no toast over facts."""
        from ckpt_tui.tui.widgets.key_line import KeyLine

        found = [*self.screen.query(KeyLine), *self.screen.query(".dialog")]
        if not found:  # Textual's own
            self.notify(words, markup=False, timeout=SAID_FOR_S)
            return
        self._hush()
        self._said_on = found[0]
        _say_on(found[0], words, role)
        self._saying = self.set_timer(SAID_FOR_S, self._hush)

    def _hush(self) -> None:
        """The keys again in place of what was said."""
        if self._saying is not None:
            self._saying.stop()
            self._saying = None
        if self._said_on is not None:
            _say_on(self._said_on, "")
            self._said_on = None

    async def on_event(self, event: Event) -> None:
        if isinstance(event, (Key, MouseDown)) and not event.is_forwarded:
            self.pressed_at, self.quiet_s = event.time, event.time - self._key_at
            if isinstance(event, Key):
                self._key_at = event.time
                if self._said_on is not None:
                    self._hush()
        if isinstance(event, (InputEvent, Paste)) and not self.screen_stack:
            return  # the app is closing: Textual has emptied its screens, and would end with a traceback
        await super().on_event(event)

    def action_redraw(self) -> None:
        """Send everything once more: another program wrote on the terminal."""
        self.wire.forget()
        compositor = self.screen._compositor
        self._display(self.screen, compositor.render_update(full=True, screen_stack=self._background_screens))

    def get_key_display(self, binding: Binding) -> str:
        """A key as the footer writes it: words and characters, no glyphs that a font may lack."""
        return binding.key_display or keys.key_words(binding.key)

    def expect_screen(self) -> asyncio.Future[None]:
        """Keys wait for it (tui/driver.py) until it comes up, or `came_up` says that none does."""
        self.came_up()
        self.coming = asyncio.get_running_loop().create_future()
        return self.coming

    def came_up(self) -> None:
        coming, self.coming = self.coming, None
        if coming is not None and not coming.done():
            coming.set_result(None)

    def push_screen(self, *args: Any, **kwargs: Any) -> Any:
        pushed = super().push_screen(*args, **kwargs)
        self.came_up()
        return pushed

    def pop_screen(self) -> AwaitComplete:
        """A screen that closes itself closes nothing but itself, and only once.

        Textual closes whatever is on top: at a second Enter or click in the same packet the screen below the dialog,
        which ended the app where that was the first one; and of two dialogs the wrong one.
        """
        asking, stack = active_message_pump.get(None), self._screen_stack
        if not isinstance(asking, Screen) or not stack or asking is stack[-1]:
            return super().pop_screen()
        if asking not in stack[1:]:
            return AwaitComplete()
        stack.remove(asking)
        asking._pop_result_callback()
        return AwaitComplete(self._replace_screen(asking)).call_next(self)

    async def _shutdown(self) -> None:
        self.is_closing = True
        await super()._shutdown()

    def _handle_exception(self, error: Exception) -> None:
        """While the watch is left screens that were just opening fail: their parts are gone, or go one by one. Nobody
        shall see that."""
        if not (self._exit or self.is_closing):
            super()._handle_exception(error)

    def action_help_quit(self) -> None:
        """What Textual binds Ctrl+C to. Twice leaves: people have it in their fingers, also for copying."""
        now = time.monotonic()
        if now - self._ctrl_c_at < SAID_FOR_S:
            self.exit(return_code=INTERRUPTED)
            return
        self._ctrl_c_at = now
        row = next(row for row in keys.APP_KEYS if row.id == "app.quit")
        self.say(f"{keys.key_words(self.settings.keymap.get(row.id, row.key))} leaves, and so does Ctrl+C once more.")

    def action_copy(self) -> None:
        """What is at the cursor, to the person's own clipboard."""
        from ckpt_tui.tui import copying

        copied = copying.at_cursor(self.screen)
        if copied is None or not copied.text:
            self.say("There is nothing at the cursor to copy.")
            return
        self.say(self.copy(copied))

    def copy(self, copied: Copied) -> str:
        """To the person's clipboard; gives what there is to say about it."""
        from ckpt_tui.tui import copying

        if self.is_served:
            return "In a browser: hold Shift and select with the mouse."
        text = copying.clipboard_text(copied)
        self.copy_to_clipboard(text)
        if os.environ.get("TMUX"):
            self.run_worker(partial(copying.to_tmux, text, dict(os.environ)), thread=True, exit_on_error=False)
        return copying.said(copied)

    def action_picture(self) -> None:
        """An SVG of the screen, as it is."""
        from ckpt_tui.tui.picture import save_picture

        if self.is_served:
            self.say("No pictures from a browser: it would be written on the server.")
            return
        name = keys.table_name(self.screen)
        try:
            path = save_picture(self.export_screenshot(), name, self.run_directory)
        except CkptError as error:
            self.say(f"{error.title}: {error.message}. {error.hint}")
            return
        directory, _, file_name = path.rpartition("/")
        self.say(f"Picture: {file_name} in {safe_text(directory or '/', 500)}")

    @property
    def run_directory(self) -> str | None:
        """Where nothing of ours belongs: of the run that is watched."""
        return None

    def action_command_palette(self) -> None:
        super().action_command_palette()
        self.call_later(self._plain_search_icon)

    async def run_action(self, action: Any, default_namespace: Any = None, namespaces: Any = None) -> bool:
        try:
            return await super().run_action(action, default_namespace, namespaces)
        except (KeyError, IndexError):
            # Textual's palette looks for a line of its list where a tiny terminal has room for none.
            if type(self.screen).__name__ != "CommandPalette":
                raise
            return True

    def _plain_search_icon(self) -> None:
        """Textual's is a picture that terminals draw one cell wide, or two, or not at all."""
        for icon in self.screen.query("SearchIcon"):
            setattr(icon, "icon", "/")  # noqa: B010 - its class is imported with the palette only

    def action_theme(self) -> None:
        """The next palette that this terminal can show."""
        choices = self.look.choices
        if len(choices) < 2:
            self.say("NO_COLOR is set: there is one look only.")
            return
        at = choices.index(self.look.palette) if self.look.palette in choices else -1
        self.ansi_color = None  # as the theme says
        self._wear(replace(self.look, palette=choices[(at + 1) % len(choices)]))
        for screen in self.screen_stack:
            for widget in screen.walk_children():
                forget = getattr(widget, "look_changed", None)
                if forget is not None:
                    forget()
        self.say(f"Theme: {self.look.palette}. To keep it: theme in `ckpt-tui config`.")


def _say_on(where: Widget, words: str, role: str = "") -> None:
    """On a line of keys, or in the frame of a dialog, which has room for the first half of a long one."""
    from ckpt_tui.tui.styled import line
    from ckpt_tui.tui.widgets.key_line import KeyLine

    if isinstance(where, KeyLine):
        where.say(words, role)
    elif where.is_attached:
        room = max(where.size.width - 4, 8)
        told = words if cell_width(words) <= room else words.partition(": ")[0]
        where.border_subtitle = line((fit(safe_text(told, 500), room).rstrip(), role)) if words else None


@contextmanager
def _no_color(is_wished: bool) -> Iterator[None]:
    """What Textual reads of $NO_COLOR while the app is made. For Textual an empty one counts too, which is against
    no-color.org, and a terminal that never had colours gets some."""
    before = os.environ.pop("NO_COLOR", None)
    if is_wished:
        os.environ["NO_COLOR"] = "1"
    try:
        yield
    finally:
        os.environ.pop("NO_COLOR", None)
        if before is not None:
            os.environ["NO_COLOR"] = before


def for_visitors(settings: Settings) -> Settings:
    """Settings for a page in somebody's browser (`textual serve`): nothing in it acts on this machine."""
    return replace(settings, readonly=True, bell=False, alert_command="")


def app_of(node: Any) -> BaseApp:
    """The app of a widget or screen, as what it is."""
    app: BaseApp = node.app
    return app


class OfTheWatch:
    """A screen, or what serves one, whose app is the watch."""

    @property
    def cockpit(self) -> CkptTuiApp:
        app: Any = self
        return app.app  # type: ignore[no-any-return]
