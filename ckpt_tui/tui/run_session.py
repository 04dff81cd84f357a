"""One watched run: its monitor in a thread, its checkpoints in another, its acts, and what they said last.

The app holds one of these at a time. It can be closed while the app goes on, for the list of runs; what its threads
still say then is not heard.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from textual.worker import Worker, get_current_worker

from ckpt_tui.run.state import RunState
from ckpt_tui.tui.acts import Acts
from ckpt_tui.tui.alerting import Alerting
from ckpt_tui.tui.first_look import FirstLook
from ckpt_tui.tui.messages import CatalogChanged, SessionFailed, StateChanged
from ckpt_tui.tui.session import CatalogReader, Monitor, follow
from ckpt_tui.tui.supervised import Supervised, supervised

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckpt_tui.services.catalog import Catalog
    from ckpt_tui.tui.app import CkptTuiApp

FIRST_CATALOG_DELAY_S = 0.25


class Overview(Protocol):
    """What shows a run."""

    def show_state(
        self, state: RunState, progress: float | None = None, *, supervised: Supervised | None = None
    ) -> None: ...
    def show_catalog(self, catalog: Catalog) -> None: ...


class RunSession:
    """The run at `path`, watched from `start()` until `close()`. monitor: instead of the log at `path`."""

    def __init__(self, app: CkptTuiApp, path: str, *, monitor: Monitor | None = None) -> None:
        self._app = app
        self.path = path
        if monitor is None:
            from ckpt_tui.services.monitor import RunMonitor

            monitor = RunMonitor(path, newest_first=True)
        self.monitor: Monitor = monitor
        self.first_look = FirstLook(monitor)
        self.directory = monitor.directory
        self.state: RunState | None = None
        self.catalog: Catalog | None = None
        self.catalog_reader = CatalogReader(self.directory, self._post)
        # After a deed on a run that is over what it changed is checked whole, as all was before.
        self.acts = Acts(app, self.directory, lambda: self.catalog_reader.ask(full=self._was_over))  # type: ignore[arg-type]
        settings = app.settings
        self.alerting = Alerting(
            self.directory, ring=app.bell if settings.bell else None,
            command="" if app.readonly else settings.alert_command,
        )  # fmt: skip
        self._is_closed = False
        self._worker: Worker[None] | None = None
        self._saves_seen: object = None
        self._was_over = False

    def start(self) -> None:
        self._worker = self._app.run_worker(
            self._follow, name="follow", group="follow", thread=True, exit_on_error=False
        )

    def close(self) -> None:
        """Stop reading. What is on its way already is dropped."""
        self._is_closed = True
        self.catalog_reader.stop()
        if self._worker is not None:
            self._worker.cancel()

    def is_source_of(self, message: StateChanged | CatalogChanged | SessionFailed) -> bool:
        """Whether it said this, and is still open."""
        return message.source is self and not self._is_closed

    def _follow(self) -> None:
        worker = get_current_worker()
        follow(
            self.monitor,
            self._post,
            first=self.first_look.take,
            wait_for_picture=self._app.wait_for_picture,
            interval_s=self._app.interval_s,
            is_cancelled=lambda: self._is_closed or worker.is_cancelled or not self._app.is_running,
        )

    def _post(self, message: StateChanged | CatalogChanged | SessionFailed) -> None:
        if not self._is_closed:
            if isinstance(message, StateChanged) and not self._app.is_served:
                message.supervised = supervised(self.directory, message.state.now)
            message.source = self
            with contextlib.suppress(RuntimeError):  # the app has ended since it was asked
                self._app.post_message(message)

    # -- in the app's own thread --------------------------------------------------------------------------------

    def take_state(self, message: StateChanged, overview: Overview) -> None:
        state = self.state = message.state
        saves = (len(state.saves), state.saves[-1:], state.session)
        has_died = state.phase.is_over and not self._was_over
        if saves != self._saves_seen or has_died:
            # The first look at the files waits until the first picture is there: reading them costs its imports.
            delay_s = FIRST_CATALOG_DELAY_S if self._saves_seen is None else 0.001
            self._saves_seen = saves
            self._app.set_timer(delay_s, lambda: self.catalog_reader.ask(full=has_died))
        self._was_over = state.phase.is_over
        self.alerting.take(state, is_caught_up=message.progress is None)
        overview.show_state(state, message.progress, supervised=message.supervised)

    def take_catalog(self, message: CatalogChanged, overview: Overview) -> None:
        self.catalog = message.catalog
        # The same rule as `status` (services/damage.py), so that shell and screen never differ on what is at risk.
        # With the first catalog, not with the first picture.
        from ckpt_tui.services.damage import found_checkpoints, invalid_names

        self.monitor.invalid_checkpoints = invalid_names(message.catalog.entries)
        self.monitor.found_checkpoints = found_checkpoints(message.catalog.entries)
        self.alerting.take_catalog(message.catalog, self.state.name if self.state is not None else "")
        overview.show_catalog(message.catalog)

    def checkpoint_names(self) -> Sequence[str]:
        return [entry.name for entry in self.catalog.entries] if self.catalog else []
