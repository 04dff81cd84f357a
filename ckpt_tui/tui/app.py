"""The cockpit: one run, watched live. Screens of files and acts open from it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import App
from textual.binding import BindingType
from textual.worker import Worker, WorkerState, get_current_worker

from ckpt_tui.errors import CkptError
from ckpt_tui.run.state import RunState
from ckpt_tui.tui import keys, theme
from ckpt_tui.tui.acts import Acts
from ckpt_tui.tui.messages import CatalogChanged, SessionFailed, StateChanged
from ckpt_tui.tui.session import CatalogReader, Monitor, follow

if TYPE_CHECKING:
    from textual.screen import Screen

    from ckpt_tui.services.catalog import Catalog


@dataclass(frozen=True, slots=True)
class ScreenRow:
    """A screen that can be opened. class_path: `module:Class`, imported when it is first opened."""

    name: str
    class_path: str
    key: str
    title: str


FIRST_CATALOG_DELAY_S = 0.25
_HERE = "ckpt_tui.tui.screens"
SCREENS: tuple[ScreenRow, ...] = (
    ScreenRow("overview", f"{_HERE}.overview:OverviewScreen", "", "Overview"),
    ScreenRow("inspect", f"{_HERE}.inspect:InspectScreen", "i", "Inspect a checkpoint"),
    ScreenRow("validate", f"{_HERE}.validate:ValidateScreen", "v", "Validate checkpoints"),
    ScreenRow("diff", f"{_HERE}.diff:DiffScreen", "d", "Compare two checkpoints"),
    ScreenRow("events", f"{_HERE}.events:EventsScreen", "e", "Raw events"),
    ScreenRow("log", f"{_HERE}.log:LogScreen", "o", "Output of a session"),
    ScreenRow("help", f"{_HERE}.help:HelpScreen", "?", "Keys"),
)


def screen_class(name: str) -> type[Screen[Any]]:
    """The class of a row of SCREENS, imported now."""
    import importlib

    row = next(row for row in SCREENS if row.name == name)
    module_name, class_name = row.class_path.split(":")
    found: type[Screen[Any]] = getattr(importlib.import_module(module_name), class_name)
    return found


class CkptTuiApp(App[None]):
    """Watches the run at `path`. readonly: no act can be reached. monitor, env: for tests and for the demo."""

    TITLE = "ckpt-tui"
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(keys.APP_KEYS)
    MODES = {"overview": lambda: screen_class("overview")()}  # noqa: RUF012 - Textual's way; its style sheet is loaded so
    DEFAULT_MODE = "overview"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (60, "-normal"), (110, "-wide")]  # noqa: RUF012 - Textual's way
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-medium"), (34, "-tall")]  # noqa: RUF012

    def __init__(
        self,
        path: str,
        *,
        readonly: bool = False,
        interval_s: float = 1.0,
        monitor: Monitor | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.look = theme.choose(os.environ if env is None else env)
        super().__init__(ansi_color=True if self.look.ansi else None)
        self.register_theme(theme.OWN_THEME)
        self.theme = self.look.theme_name
        self.animation_level = "none"
        self.path = path
        self.readonly = readonly
        self.interval_s = interval_s
        if monitor is None:
            from ckpt_tui.services.monitor import RunMonitor

            monitor = RunMonitor(path)
        self.monitor: Monitor = monitor
        self.directory = monitor.directory
        self.state: RunState | None = None
        self.catalog: Catalog | None = None
        self.catalog_reader = CatalogReader(self.directory, self.post_message)
        self.acts = Acts(self, self.directory, self.catalog_reader.ask)  # type: ignore[arg-type]
        self._saves_seen: object = None
        self._was_over = False

    # Providers of the palette are imported when it is opened.
    def get_system_commands(self, screen: Screen[Any]) -> Any:
        from ckpt_tui.tui.palette import commands

        return commands(self)

    def on_mount(self) -> None:
        self.run_worker(self._follow, name="follow", group="follow", thread=True, exit_on_error=False)

    def on_unmount(self) -> None:
        self.catalog_reader.stop()

    def _follow(self) -> None:
        worker = get_current_worker()
        follow(
            self.monitor,
            self.post_message,
            interval_s=self.interval_s,
            is_cancelled=lambda: worker.is_cancelled or not self.is_running,
        )

    # -- what the threads tell ----------------------------------------------------------------------------------

    def on_state_changed(self, message: StateChanged) -> None:
        self.state = message.state
        saves = (len(message.state.saves), message.state.saves[-1:], message.state.session)
        has_died = message.state.phase.is_over and not self._was_over
        if saves != self._saves_seen or has_died:
            # The first look at the files waits until the first picture is there: reading them costs its imports.
            delay_s = FIRST_CATALOG_DELAY_S if self._saves_seen is None else 0.001
            self._saves_seen = saves
            self.set_timer(delay_s, lambda: self.catalog_reader.ask(full=has_died))
        self._was_over = message.state.phase.is_over
        self._overview().show_state(message.state, message.progress)

    def on_catalog_changed(self, message: CatalogChanged) -> None:
        self.catalog = message.catalog
        # The same rule as `status` (services/damage.py), so that shell and screen never differ on what is at risk.
        self.monitor.invalid_checkpoints = frozenset(e.name for e in message.catalog.entries if not e.is_candidate)
        self._overview().show_catalog(message.catalog)

    def on_session_failed(self, message: SessionFailed) -> None:
        self._overview().show_failure(message.error)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.state is WorkerState.ERROR and event.worker.error is not None:
            from ckpt_tui.tui.screens.work import as_ckpt_error

            self.show_error(as_ckpt_error(event.worker.error))

    def _overview(self) -> Any:
        return self.screen_stack[0]

    # -- actions ------------------------------------------------------------------------------------------------

    def open_screen(self, name: str, *args: object, **kwargs: object) -> None:
        """Push a screen of SCREENS; a CkptError in making it is said."""
        try:
            self.push_screen(screen_class(name)(*args, **kwargs))  # type: ignore[arg-type]
        except CkptError as error:
            self.show_error(error)

    def show_error(self, error: CkptError) -> None:
        from ckpt_tui.tui.dialogs.error import ErrorDialog

        self.push_screen(ErrorDialog(error))

    def action_help(self) -> None:
        if not isinstance(self.screen, screen_class("help")):
            self.open_screen("help")

    async def action_quit(self) -> None:
        self.catalog_reader.stop()
        self.exit()

    def checkpoint_names(self) -> Sequence[str]:
        return [entry.name for entry in self.catalog.entries] if self.catalog else []
