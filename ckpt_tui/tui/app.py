"""The cockpit: one run, watched live, or a list of runs from which one is opened. Screens of files and acts open
from a run."""

from __future__ import annotations

import os.path
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import BindingType
from textual.worker import Worker, WorkerState

from ckpt_tui.errors import CkptError
from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.records import dataclass
from ckpt_tui.run.state import RunState
from ckpt_tui.tui import keys
from ckpt_tui.tui.base_app import BaseApp
from ckpt_tui.tui.messages import CatalogChanged, SessionFailed, StateChanged
from ckpt_tui.tui.run_session import RunSession
from ckpt_tui.tui.session import Monitor
from ckpt_tui.tui.stylesheet import ParsedOnce

if TYPE_CHECKING:
    from textual.screen import Screen

    from ckpt_tui.services.catalog import Catalog
    from ckpt_tui.settings import Settings
    from ckpt_tui.tui.acts import Acts
    from ckpt_tui.tui.first_runs import FirstRuns


@dataclass(frozen=True, slots=True)
class ScreenRow:
    """A screen that can be opened. class_path: `module:Class`, imported when it is first opened."""

    name: str
    class_path: str
    key: str
    title: str


_HERE = "ckpt_tui.tui.screens"
SCREENS: tuple[ScreenRow, ...] = (
    ScreenRow("overview", f"{_HERE}.overview:OverviewScreen", "", "Overview"),
    ScreenRow("runs", f"{_HERE}.runs:RunsScreen", "", "The runs of a directory"),
    ScreenRow("compare", f"{_HERE}.compare:CompareScreen", "C", "Runs beside each other"),
    ScreenRow("inspect", f"{_HERE}.inspect:InspectScreen", "i", "Inspect a checkpoint"),
    ScreenRow("validate", f"{_HERE}.validate:ValidateScreen", "v", "Validate checkpoints"),
    ScreenRow("diff", f"{_HERE}.diff:DiffScreen", "d", "Compare two checkpoints"),
    ScreenRow("events", f"{_HERE}.events:EventsScreen", "e", "Raw events"),
    ScreenRow("log", f"{_HERE}.log:LogScreen", "o", "Output of a session"),
    ScreenRow("alerts", f"{_HERE}.alerts:AlertsScreen", "a", "Alerts"),
    ScreenRow("advice", f"{_HERE}.advice:AdviceScreen", "A", "How often to save"),
    ScreenRow("help", f"{_HERE}.help:HelpScreen", "?", "Keys"),
)


def _holds_runs(path: str) -> bool:
    if os.path.exists(os.path.join(path, LOG_NAME)) or not os.path.isdir(path):  # noqa: PTH110, PTH112 - 40 us less
        return False
    from ckpt_tui.services.run_places import holds_runs

    return holds_runs(path, counts_empty=True)


def screen_class(name: str) -> type[Screen[Any]]:
    """The class of a row of SCREENS, imported now."""
    import importlib

    row = next(row for row in SCREENS if row.name == name)
    module_name, class_name = row.class_path.split(":")
    found: type[Screen[Any]] = getattr(importlib.import_module(module_name), class_name)
    return found


def _palette_commands() -> Any:
    """Imported when the palette is opened."""
    from ckpt_tui.tui.palette import RunCommands

    return RunCommands


class CkptTuiApp(BaseApp):
    """Watches the run at `path`, or the runs below it. readonly: no act can be reached. monitor, env: for tests.

    What belongs to one run is in `watched`, which is None while the list of runs is shown.
    """

    ENABLE_COMMAND_PALETTE = True
    COMMANDS = {_palette_commands}  # noqa: RUF012 - Textual's way
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(keys.APP_KEYS)
    # Textual's way; the style sheet of the first screen is loaded so.
    MODES = {name: partial(lambda name: screen_class(name)(), name) for name in ("overview", "runs")}  # noqa: RUF012
    DEFAULT_MODE = "overview"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (60, "-normal"), (110, "-wide")]  # noqa: RUF012 - Textual's way
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-medium"), (34, "-tall")]  # noqa: RUF012

    def __init__(
        self,
        path: str,
        *,
        readonly: bool = False,
        interval_s: float | None = None,
        monitor: Monitor | None = None,
        settings: Settings | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.root = path
        self.lists_runs = monitor is None and _holds_runs(path)
        self.first_runs: FirstRuns | None = None
        if self.lists_runs:
            from ckpt_tui.tui.first_runs import FirstRuns

            self.first_runs = FirstRuns(path)
            # Which screen is the first is known only now.
            self.DEFAULT_MODE = "runs"  # type: ignore[misc]
        super().__init__(settings=settings, env=env)
        self.stylesheet = ParsedOnce(variables=self.get_css_variables())
        self.readonly = readonly or self.settings.readonly
        self.interval_s = self.settings.tick_s if interval_s is None else interval_s
        self._run_screen: Screen[Any] | None = None  # of a run of the list
        self.watched: RunSession | None = None if self.lists_runs else RunSession(self, path, monitor=monitor)

    @property
    def run_open(self) -> RunSession:
        """The run that is shown. Only screens of a run ask for it."""
        assert self.watched is not None
        return self.watched

    @property
    def path(self) -> str:
        return self.run_open.path

    @property
    def directory(self) -> str:
        return self.run_open.directory

    @property
    def monitor(self) -> Monitor:
        return self.run_open.monitor

    @property
    def run_directory(self) -> str | None:
        return self.watched.directory if self.watched else self.root

    @property
    def acts(self) -> Acts:
        return self.run_open.acts

    @property
    def state(self) -> RunState | None:
        return self.watched.state if self.watched else None

    @property
    def catalog(self) -> Catalog | None:
        return self.watched.catalog if self.watched else None

    @property
    def overview(self) -> Any:
        """The overview of the run that is shown, None when the list of runs is, or when the app is closing."""
        if self.watched is None or self.is_closing:
            return None
        stack = self.screen_stack  # the app empties it before it has read its last messages
        if not self.lists_runs:
            return stack[0] if stack else None
        return self._run_screen if self._run_screen in stack else None  # what was opened sooner may lie between

    @property
    def has_overview(self) -> bool:
        """For the help: whether the keys of a run mean something now."""
        return self.overview is not None

    @property
    def reachable_screens(self) -> tuple[str, ...]:
        """For the help: the screens that can be come to."""
        from ckpt_tui.tui.screens.help import FILE_SCREENS

        return ("runs", "compare", *FILE_SCREENS)

    def on_mount(self) -> None:
        if self.watched is not None:
            self.watched.start()

    def on_unmount(self) -> None:
        if self.watched is not None:
            self.watched.close()

    # -- what the threads tell ----------------------------------------------------------------------------------

    def on_state_changed(self, message: StateChanged) -> None:
        watched, overview = self.watched, self.overview
        if watched is not None and overview is not None and watched.is_source_of(message):
            watched.take_state(message, overview)

    def on_catalog_changed(self, message: CatalogChanged) -> None:
        watched, overview = self.watched, self.overview
        if watched is not None and overview is not None and watched.is_source_of(message):
            watched.take_catalog(message, overview)

    def on_session_failed(self, message: SessionFailed) -> None:
        watched, overview = self.watched, self.overview
        if watched is not None and overview is not None and watched.is_source_of(message):
            overview.show_failure(message.error)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.state is WorkerState.ERROR and event.worker.error is not None:
            from ckpt_tui.tui.screens.work import as_ckpt_error

            self.show_error(as_ckpt_error(event.worker.error))

    # -- a list of runs, and one of them ------------------------------------------------------------------------

    async def open_run(self, path: str) -> None:
        """Open a run of the list over it."""
        if self.watched is not None:
            return
        try:
            watched = self.watched = RunSession(self, path)
        except CkptError as error:
            self.show_error(error)
            return
        self._run_screen = screen_class("overview")()
        await self.push_screen(self._run_screen)
        if self.watched is watched:  # else it was left while it opened
            watched.start()

    async def close_run(self) -> None:
        """Back to the list of runs."""
        if self.watched is not None and self.lists_runs and self.screen is self.overview:
            self.watched.close()
            await self.pop_screen()
            self.watched = None

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
        if self.watched is not None:
            self.watched.close()
        self.exit()

    def checkpoint_names(self) -> Sequence[str]:
        return self.watched.checkpoint_names() if self.watched else ()
