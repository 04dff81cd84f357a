"""Overview: is the run fine, how its curves go, what happened, its sessions and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.screen import Screen

from ckpt_tui.errors import CkptError
from ckpt_tui.run.state import Phase, RunState, Save
from ckpt_tui.tui import keys, news
from ckpt_tui.tui.copying import Copied
from ckpt_tui.tui.screens import arrangement
from ckpt_tui.tui.screens.arrangement import Arrangement
from ckpt_tui.tui.screens.chart_actions import ChartActions
from ckpt_tui.tui.screens.run_actions import RunActions
from ckpt_tui.tui.screens.run_list_actions import RunListActions
from ckpt_tui.tui.widgets import checkpoint_list, session_lanes
from ckpt_tui.tui.widgets.chart import Chart
from ckpt_tui.tui.widgets.charts import ChartStack
from ckpt_tui.tui.widgets.checkpoint_list import CheckpointList
from ckpt_tui.tui.widgets.event_lane import EventLane
from ckpt_tui.tui.widgets.feed import Feed
from ckpt_tui.tui.widgets.header import Header
from ckpt_tui.tui.widgets.key_line import KeyLine
from ckpt_tui.tui.widgets.rule import RuleLine
from ckpt_tui.tui.widgets.session_lanes import SessionLanes

if TYPE_CHECKING:
    from ckpt_tui.services.catalog import Catalog
    from ckpt_tui.tui.supervised import Supervised
    from ckpt_tui.tui.widgets.session_list import SessionList
    from ckpt_tui.tui.widgets.virtual_list import VirtualList

NEEDS_LIST = frozenset({"inspect", "validate", "mark", "diff"})


class OverviewScreen(RunListActions, ChartActions, RunActions, Screen[None]):  # type: ignore[misc]
    """The first screen. The app gives it every new state; it keeps nothing that is not on the screen."""

    CSS_PATH = "overview.tcss"
    AUTO_FOCUS = "#checkpoints"
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(keys.OVERVIEW_KEYS)

    def __init__(self) -> None:
        super().__init__()
        self.state: RunState | None = None
        self.catalog: Catalog | None = None
        self.marked: str | None = None
        self._is_ready = False  # its widgets are there
        self._damages: list[news.News] = []  # what the catalog holds of it
        self._is_checked_whole = False
        self._listed: tuple[object, tuple[Save, ...]] | None = None  # what the list was made of
        self._catalog_knows: float | None = None  # the time of the last save that the catalog can have seen
        self.part = ""  # of arrangement.py, "" as long as the person has not chosen
        self.feed: Feed | None = None
        self.session_list: SessionList | None = None
        self._arrangement: Arrangement | None = None
        self._progress: float | None = None
        self._failure: CkptError | None = None
        self.supervised: Supervised | None = None

    # -- layout -------------------------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        unicode = self.cockpit.look.unicode
        yield Header(unicode=unicode, id="header")
        with Container(id="body"):
            with Container(id="curves"):
                yield RuleLine(unicode=unicode, id="chart_rule")
                yield ChartStack(unicode=unicode, id="chart")
                yield EventLane(unicode=unicode, id="lane")
                yield SessionLanes(unicode=unicode, id="sessions")
            with Container(id="lists"):
                yield CheckpointList(unicode=unicode, id="checkpoints")
        yield KeyLine()

    def on_mount(self) -> None:
        self._is_ready = True
        self._show_chart_rule()
        state, progress = self.state, self._progress
        first_look, is_start = self.cockpit.run_open.first_look, not self.cockpit.wire.num_chars_sent
        if state is None and (state := first_look.state_soon(is_start=is_start)) is not None:
            progress = None if self.cockpit.monitor.is_caught_up else self.cockpit.monitor.progress
        if state is not None:
            self.show_state(state, progress)
            return
        if self._failure is not None:
            self._show_header()
        self._arrange()

    def on_unmount(self) -> None:
        self._is_ready = False

    def _compositor_refresh(self) -> None:
        # While the app gathers changes Textual draws all the same and throws it away: 5 ms of the first picture.
        if not self.app._batch_count:
            super()._compositor_refresh()

    def on_resize(self) -> None:
        if self._is_ready:
            self._arrange()

    def _arrange(self) -> None:
        """Give every part its lines. Nothing is done where they have them already."""
        width, height = self.app.size
        header = self.query_one("#header", Header)
        state = self.state or RunState(now=0.0)
        wanted = header.num_lines(width, arrangement.header_room(height))
        num_sessions = len(state.sessions)
        only_files = self._has_only_files(state)
        part = self.part or self._usual_part(state, height, wanted)
        new = arrangement.arrange(
            width, height, wanted, num_sessions, has_outlook=session_lanes.has_outlook(state), part=part,
            has_curves=not only_files,
        )  # fmt: skip
        if new == self._arrangement:
            return
        self._arrangement = new
        body, curves, lists = (self.query_one(name) for name in ("#body", "#curves", "#lists"))
        self._need(new)
        header.styles.height = new.header
        curves.display, lists.display = bool(new.chart), bool(new.lists)
        self.chart.styles.height = new.chart
        sessions = self.query_one("#sessions", SessionLanes)
        sessions.display = bool(new.lanes)
        sessions.styles.height = new.lanes or 1
        body.styles.layout = "horizontal" if new.is_beside else "vertical"
        curves.styles.width = "1fr" if new.is_beside else "100%"
        curves.styles.height = new.chart + 2 + new.lanes
        lists.styles.width = new.right if new.is_beside else "100%"
        lists.styles.height = new.lists + new.feed
        lists.styles.layout = "horizontal" if new.has_feed and not new.is_beside else "vertical"
        lists.styles.padding = (0, 0, 0, 1 if new.is_beside else 0)
        for name, one in self._lists().items():
            one.display = name == new.left or (name == arrangement.EVENTS and new.has_feed)
            is_second = name == arrangement.EVENTS and new.has_feed
            one.styles.height = new.feed if is_second and new.is_beside else new.lists or 1
            one.styles.width = "2fr" if is_second and not new.is_beside else "3fr" if new.has_feed else "100%"
            one.styles.margin = (0, 0, 0, 1 if is_second and not new.is_beside else 0)
            if new.is_beside:
                one.styles.width = "100%"
        if self.is_current and (self.focused is None or not self.focused.display):
            self._focus_list()
        self.refresh_bindings()  # what has no room cannot be acted on

    def _has_only_files(self, state: RunState) -> bool:
        """Whether there are checkpoints, and no log that tells of them."""
        return state.phase is Phase.WAITING and self.catalog is not None and bool(self.catalog.entries)

    def _usual_part(self, state: RunState, height: int, header: int) -> str:
        """What is shown where a person has not chosen: the curves, and where a low screen tells of an end, what a
        resume may take."""
        has_room = height - 1 - header >= arrangement.MIN_STACKED
        is_list = has_room or state.phase.is_over or self._has_only_files(state)
        return arrangement.CHECKPOINTS if is_list else arrangement.CURVES

    def _lists(self) -> dict[str, VirtualList[Any]]:
        """The lists that have been needed so far, by their part."""
        found: dict[str, VirtualList[Any]] = {arrangement.CHECKPOINTS: self.checkpoints}
        if self.feed is not None:
            found[arrangement.EVENTS] = self.feed
        if self.session_list is not None:
            found[arrangement.SESSIONS] = self.session_list
        return found

    def _need(self, new: Arrangement) -> None:
        """Lists that the first picture does not show are made when they are first shown."""
        lists = self.query_one("#lists")
        if self.feed is None and (new.has_feed or new.left == arrangement.EVENTS):
            self.feed = Feed(id="feed")
            if self.state is not None:
                self.feed.set_feed(self.state.feed, self.state.now)
            lists.mount(self.feed)
        if self.session_list is None and new.left == arrangement.SESSIONS:
            from ckpt_tui.tui.widgets.session_list import SessionList

            self.session_list = SessionList(unicode=self.cockpit.look.unicode, id="session_list")
            if self.state is not None:
                self.session_list.set_state(self.state)
            lists.mount(self.session_list, before=0)

    def _focus_list(self) -> None:
        """The keys go to the list that is shown."""
        left = self._arrangement.left if self._arrangement is not None else ""
        one = self._lists().get(left)
        if one is not None:
            one.focus(scroll_visible=False)
        else:
            self.set_focus(None)

    @property
    def chart(self) -> ChartStack:
        return self.query_one("#chart", ChartStack)

    def checkpoint_validity(self) -> Mapping[str, str]:
        return {entry.name: entry.validity_words for entry in self.catalog.entries} if self.catalog else {}

    def go_to_checkpoint(self, name: str) -> None:
        index = next((index for index, row in enumerate(self.checkpoints.rows) if row.name == name), None)
        if index is None:
            self.say(f"{name} is not in the list any more.")
            return
        self.checkpoints.cursor = index
        self.checkpoints.focus()

    @property
    def checkpoints(self) -> CheckpointList:
        return self.query_one("#checkpoints", CheckpointList)

    @property
    def shows_checkpoints(self) -> bool:
        return self._arrangement is not None and self._arrangement.left == arrangement.CHECKPOINTS

    # -- new facts ----------------------------------------------------------------------------------------------

    def show_state(
        self, state: RunState, progress: float | None = None, *, supervised: Supervised | None = None
    ) -> None:
        """Show `state`; only lines that changed are sent."""
        self.supervised = supervised
        self.state, self._progress, self._failure = state, progress, None
        if not self._is_ready:
            return  # what a thread says before there is a widget, or after
        with self.app.batch_update():
            self._show_header()
            self._arrange()
            self.chart.set_state(state)
            self._show_lane()
            self.query_one("#sessions", SessionLanes).set_state(state)
            self._show_list()
            if self.feed is not None:
                self.feed.set_feed(state.feed, state.now)
            if self.session_list is not None:
                self.session_list.set_state(state)
            self.label_keys()

    def show_catalog(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._damages = news.damages_of(catalog)
        self.show_validity_in_moment()
        if self.state is not None and self._is_ready:
            # It is read anew after each save that the log tells of: what it does not list of older ones is gone.
            self._catalog_knows = max((save.ts for save in self.state.saves), default=None)
            if self._has_only_files(self.state) and not self._is_checked_whole:
                self._is_checked_whole = True  # nobody else will ask for it: no run will end
                self.cockpit.run_open.catalog_reader.ask(full=True)
            with self.app.batch_update():
                self._show_header()
                self._arrange()
                self._show_list()
                self.label_keys()

    def on_screen_resume(self) -> None:
        """Alerts may have been acknowledged meanwhile."""
        if self.state is not None and self.state.alerts:
            self._show_header()
            self._arrange()

    def show_failure(self, error: CkptError) -> None:
        """The log or the directory cannot be read: said in the header until it can be again."""
        self._failure = error
        if self._is_ready:
            self._show_header()
            self._arrange()

    def _show_header(self) -> None:
        state = self.state or RunState(now=0.0, directory=self.cockpit.directory)
        has_ended = state.phase.is_over or state.phase is Phase.WAITING
        has_checkpoints = self._has_only_files(state)
        keys_now = None
        if has_ended and (state.num_events or has_checkpoints):
            keys_now = news.next_keys(
                state,
                self.catalog,
                self._key,
                readonly=self.cockpit.readonly,
                row_acts=self.row_acts(),
                is_supervised=self.is_supervised,
            )
        self.query_one("#header", Header).set_state(
            state,
            listed_as=self.listed_as,
            progress=self._progress,
            failure=news.failure_news(self._failure) if self._failure is not None else None,
            damages=self._damages,
            troubles=[
                *news.alert_news(
                    state, self.cockpit.run_open.alerting.unacknowledged(state.alerts), self._key("view.alerts")
                ),
                *news.log_news(state, self._key("view.bad_lines")),
            ],
            next_keys=keys_now,
            has_checkpoints=has_checkpoints,
            supervised=self.supervised,
        )

    def acknowledged(self) -> None:
        """A person has seen alerts: they are no news any more."""
        self._show_header()
        self._arrange()

    def _key(self, key_id: str) -> str:
        """How the key of a row of the table is written, as this person has it; "" where there is none."""
        row = next((key for key in (*keys.OVERVIEW_KEYS, *keys.APP_KEYS) if key.id == key_id), None)
        if row is None:
            return ""
        return keys.key_words(self.cockpit.settings.keymap.get(key_id, row.key).split(",")[0])

    @on(Chart.Changed)
    def _show_lane(self) -> None:
        if self.state is not None:
            self.query_one("#lane", EventLane).set_markers(self.state.markers, self.chart.x)
        self._show_chart_rule()

    def _show_chart_rule(self) -> None:
        self.query_one("#chart_rule", RuleLine).set(self.chart.main.title, self.chart.rule_parts())

    def _show_list(self) -> None:
        if self.state is None:
            return
        self.checkpoints.set_now(self.state.now)
        # Made anew only when what it tells changed: there may be thousands.
        asked = (self.catalog, self.marked, self._catalog_knows)
        saves = self.state.saves
        if self._listed is not None and self._listed[0] == asked and self._listed[1] == saves:
            return
        self._listed = (asked, saves)
        rows = checkpoint_list.rows_of(self.state, self.catalog, self.marked, log_after=self._catalog_knows)
        self.checkpoints.show_rows(rows, self.catalog, len(self.state.saves))

    # -- keys ---------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        now = self._arrangement
        if action in NEEDS_LIST and now is not None and now.left != arrangement.CHECKPOINTS:
            return False  # nobody shall act on a list that is not to be seen
        if action == "feed":
            return len(self._parts()) > 1
        if action == "runs":
            return self.cockpit.lists_runs
        return not (self.cockpit.readonly and keys.is_act(action))

    @property
    def needed_keys(self) -> tuple[str, ...]:
        """Where one part fills the screen the key to the others is the last to go."""
        now = self._arrangement
        return ("view.feed",) if now is not None and not (now.chart and now.lists) else ()

    @property
    def key_line(self) -> KeyLine:
        return self.query_one(KeyLine)

    def say(self, words: str) -> None:
        """Words about what was done or cannot be done, on the last line until the next key."""
        self.key_line.say(words, "accent")

    def on_key(self) -> None:
        self.key_line.say("")

    def to_copy(self) -> Copied | None:
        """What the chart's cursor reads, or the path of the checkpoint at the list's."""
        if self.chart.cursor_cell() is not None:
            return Copied("values", " ".join("".join(text for text, _ in self.chart.rule_parts()).split()))
        row = self._row()
        return Copied("path", self._path(row.name)) if row is not None else None

    # Textual finds handlers only in its own classes.
    @on(CheckpointList.Selected, "#checkpoints")
    def _open_checkpoint(self) -> None:
        self.action_inspect()

    @on(CheckpointList.Moved, "#checkpoints")
    def _another_checkpoint(self) -> None:
        """Banner and last line say what the keys of acts do at this one."""
        if self.label_keys() and self.state is not None and self.state.phase.is_over:
            self._show_header()
            self._arrange()

    @on(CheckpointList.MenuWanted, "#checkpoints")
    def _menu(self) -> None:
        self.open_menu()

    @on(Header.Pressed)
    def _press_told(self, message: Header.Pressed) -> None:
        self.press_told(message.key)

    @on(Feed.Selected, "#feed")
    def _open_events(self) -> None:
        self.action_events()

    def _parts(self) -> tuple[str, ...]:
        """What can be chosen to be shown at this size."""
        now = self._arrangement
        num_sessions = len(self.state.sessions) if self.state is not None else 0
        width, height = self.app.size
        return arrangement.shown_parts(width, height, now.header, num_sessions) if now is not None else ()

    def action_feed(self) -> None:
        """Show the next part where there is not room for all of them."""
        parts, now = self._parts(), self._arrangement
        if now is None or not parts:
            return
        shown = now.left or arrangement.CURVES
        self.part = parts[(parts.index(shown) + 1) % len(parts)] if shown in parts else parts[0]
        with self.app.batch_update():
            self._arrange()
        self.call_after_refresh(self._focus_list)
