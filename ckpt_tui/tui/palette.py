"""The command palette: what can be done on this screen and on the others, the checkpoints by name, and any step.

Made when it is opened. Texts are `Content`, never markup.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from ckpt_tui.text import count, safe_text
from ckpt_tui.tui import keys
from ckpt_tui.tui.base_app import OfTheWatch
from ckpt_tui.tui.keymap import keys_of
from ckpt_tui.tui.keys import Key

if TYPE_CHECKING:
    from ckpt_tui.tui.app import CkptTuiApp

MAX_CHECKPOINTS = 200
MAX_RUNS = 500
# Means of moving, and what opens this.
_NOT_COMMANDS = re.compile(r"chart\.cursor_.*|app\.palette|list\..*")
# Groups of the overview that need no row under a cursor: they can be reached from every screen of a run.
_FROM_ANYWHERE = frozenset({"View"})
_ACTS_FROM_ANYWHERE = frozenset({"act.resume", "act.undo", "act.redo", "act.history", "act.stop"})


class Command(NamedTuple):
    """title, words: safe; `run` is what choosing it does."""

    title: str
    words: str
    run: Callable[[], Any]


def commands(app: CkptTuiApp) -> Iterator[Command]:
    """What the palette offers before anything is typed: this screen's keys, then the others, then checkpoints."""
    stack = [screen for screen in app.screen_stack if type(screen).__name__ != "CommandPalette"]
    here = stack[-1]
    table = keys.TABLES.get(keys.table_name(here), ())
    yield from _of_keys(app, here, table)
    yield from _of_keys(app, app, keys.TABLES["app"])
    overview = app.overview
    if overview is None:
        for name, path in getattr(here, "named_runs", list)()[:MAX_RUNS]:
            yield Command(f"Watch {safe_text(name, 100)}", "Open this run", partial(app.open_run, path))
        return
    if here is not overview:
        elsewhere = (k for k in keys.OVERVIEW_KEYS if k.group in _FROM_ANYWHERE or k.id in _ACTS_FROM_ANYWHERE)
        yield from _of_keys(app, overview, tuple(elsewhere))
    for name in list(app.checkpoint_names())[:MAX_CHECKPOINTS]:
        path = os.path.join(app.directory, name)
        title = safe_text(name, 100)
        yield Command(f"Inspect {title}", "What is in it", partial(app.open_screen, "inspect", path))
        yield Command(f"Validate {title}", "Is it whole", partial(app.open_screen, "validate", [path]))


def _of_keys(app: CkptTuiApp, node: Any, table: tuple[Key, ...]) -> Iterator[Command]:
    for key in table:
        if _NOT_COMMANDS.fullmatch(key.id) or (app.readonly and key.is_act):
            continue
        if not _can_be_done(app, node, key.action):
            continue
        if key.is_act and getattr(node, "key_labels", {}).get(key.id) == ():
            continue  # not as the run stands now
        pressed = keys.key_words(keys_of(key, app.settings.keymap))
        title = f"{key.group}: {key.label}"
        act = node.row_acts().get(key.id) if key.is_act and hasattr(node, "row_acts") else None
        if act is not None:  # by the name of what it would be done to
            title = f"{act.words[:1].upper()}{act.words[1:]}"
        yield Command(title, f"{key.tooltip}  ({pressed})", partial(app.run_action, key.action, node))


def _can_be_done(app: CkptTuiApp, node: Any, action: str) -> bool:
    """As the footer has it: what `check_action` forbids is not offered."""
    from textual.actions import parse

    _, name, parameters = parse(action)
    check: Callable[[str, tuple[object, ...]], bool | None] = node.check_action
    return check(name, parameters) is not False


def commands_of_step(app: CkptTuiApp, step: int) -> Iterator[Command]:
    """What can be done at a step of the run that is open."""
    overview = app.overview
    if overview is None or app.state is None:
        return
    yield Command(
        f"Step {count(step)}: its events", "The raw events from there on",
        partial(app.open_screen, "events", app.path, at_step=step),
    )  # fmt: skip
    stack = [screen for screen in app.screen_stack if type(screen).__name__ != "CommandPalette"]
    go_to = getattr(overview, "go_to_step", None)
    if go_to is not None and stack[-1] is overview:
        yield Command(f"Step {count(step)}: on the curves", "The chart's cursor goes there", partial(go_to, step))
    steps = {save.path: save.step for save in app.state.saves if not save.removed}
    for name in app.checkpoint_names():
        if steps.get(name) == step:
            path = os.path.join(app.directory, name)
            yield Command(
                f"Step {count(step)}: inspect {safe_text(name, 100)}", "The checkpoint of this step",
                partial(app.open_screen, "inspect", path),
            )  # fmt: skip


class RunCommands(OfTheWatch, Provider):
    """What Textual's palette asks."""

    async def discover(self) -> Hits:
        for command in commands(self.cockpit):
            yield DiscoveryHit(Content(command.title), command.run, command.title, _as_text(command.words))

    async def search(self, query: str) -> Hits:
        digits = query.replace(",", "").replace("step", "").strip()
        if digits.isdecimal() and len(digits) <= 15:
            for command in commands_of_step(self.cockpit, int(digits)):
                yield Hit(1.0, Content(command.title), command.run, command.title, _as_text(command.words))
        matcher = self.matcher(query)
        for command in commands(self.cockpit):
            in_title, in_words = matcher.match(command.title), matcher.match(command.words)
            if in_title > 0 or in_words > 0:
                # Textual's highlight reads what it is given as markup.
                is_plain = in_title > 0 and "[" not in command.title and "\\" not in command.title
                shown = matcher.highlight(command.title) if is_plain else Content(command.title)
                score = max(in_title, in_words / 2)
                yield Hit(score, shown, command.run, command.title, _as_text(command.words))


def _as_text(words: str) -> str:
    """Textual reads help as markup."""
    return words.replace("\\", "\\\\").replace("[", "\\[")
