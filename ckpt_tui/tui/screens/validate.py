"""Validate: is it whole, finite, and good to resume from? One line a file while it goes on, reasons below.

Every byte is read again, whatever was known before: who asks wants to know now. The result is remembered, so that
lists elsewhere show it at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.message import Message

from ckpt_tui.checkpoints.model import Finding
from ckpt_tui.errors import Cancelled, CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.text import duration, plural, size
from ckpt_tui.tui import keys
from ckpt_tui.tui.copying import Copied, copied_error
from ckpt_tui.tui.judgement import outcome_words, severity_words, sorted_by_severity, verdict_words
from ckpt_tui.tui.screens.work import ByteProgress, WorkScreen, worker_is_cancelled
from ckpt_tui.tui.styled import Part, error_content, line, lines, parts_width, spread
from ckpt_tui.tui.widgets.key_line import KeyLine
from ckpt_tui.tui.widgets.virtual_list import Cell, Column, VirtualList
from ckpt_tui.tui.widgets.words import Words

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.validate import Validation

LEVELS = ("structure", "integrity", "numbers", "resume")
FILE_COLUMNS = (
    Column("checkpoint", 24, grows=True, keep="middle", most=64),
    Column("verdict", 18),
    *(Column(level, 13, priority=2) for level in LEVELS),
    Column("step", 9, align="right", priority=1),
    Column("size", 8, align="right", priority=1),
)
FINDING_COLUMNS = (
    Column("finding", 9),
    Column("level", 9, priority=1),
    Column("where", 18, keep="middle"),
    Column("what is wrong", 20, grows=True),
)


@dataclass(frozen=True, slots=True)
class FileRow:
    """One file: waiting, being checked (`doing` says how far), or judged."""

    path: str
    name: str
    doing: str = "waiting"
    validation: Validation | None = None


class Judged(Message):
    """One file has its verdict."""

    def __init__(self, index: int, validation: Validation) -> None:
        super().__init__()
        self.index = index
        self.validation = validation


class Started(Message):
    """One file is being read now."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index


class ValidateScreen(WorkScreen[None]):
    """Validates `paths` at every level, in a thread; a directory stands for every checkpoint in it."""

    CSS_PATH = "validate.tcss"
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-tall")]  # noqa: RUF012 - Textual's way
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(keys.VALIDATE_KEYS)

    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__()
        assert paths, "a validate screen needs something to validate"
        self.rows = rows_of(paths)
        self._progress = ""
        self._problem: CkptError | None = None
        self._summary: list[Part] = []

    def compose(self) -> ComposeResult:
        yield Words(id="facts")
        yield VirtualList[FileRow](FILE_COLUMNS, file_cells, self.rows, id="files", key=lambda row: row.path)
        yield Words(id="levels")
        yield VirtualList[Finding](FINDING_COLUMNS, finding_cells, id="findings", key=id)
        yield Words(id="detail")
        yield KeyLine()

    def on_mount(self) -> None:
        files = self.query_one("#files", VirtualList)
        files.focus()
        self.action_again()

    def on_resize(self) -> None:
        self._arrange()
        self._show_file()

    def _arrange(self) -> None:
        """The list of files has the room that findings do not need."""
        files, findings = self.query_one("#files", VirtualList), self.query_one("#findings", VirtualList)
        has_findings = any(row.validation is not None and row.validation.findings for row in self.rows)
        room = self.size.height - 6  # what is said above, the levels, the keys
        most = max(room * 3 // 5, 3) if has_findings else max(room, 3)
        height = min(len(self.rows) + 1, most)
        if files.styles.height is None or files.styles.height.value != height:
            files.styles.height = height
        findings.display = has_findings

    def to_copy(self) -> Copied | None:
        """The file, or the finding: where the cursor is."""
        if self._problem is not None:
            return copied_error(self._problem)
        finding = self.query_one("#findings", VirtualList).cursor_row if self._is_at_findings else None
        if finding is not None:
            return Copied("finding", f"{finding.where}: {finding.message}")
        row = self.query_one("#files", VirtualList).cursor_row
        return None if row is None else Copied("path", row.path)

    @property
    def _is_at_findings(self) -> bool:
        return self.query_one("#findings").has_focus

    # -- work ---------------------------------------------------------------------------------------------------

    def action_again(self) -> None:
        if self.is_working("validate"):
            return
        self.rows = [FileRow(row.path, row.name) for row in self.rows]
        self._problem, self._summary, self._progress = None, [], "starting ..."
        self._show_rows()
        self.start_work("validate", partial(self._validate_all, [row.path for row in self.rows]))

    def _validate_all(self, paths: list[str]) -> list[Validation]:
        """Runs in a thread: touches no widget, posts a message a file."""
        from ckpt_tui.services.validation_run import bytes_of, validate_all

        is_cancelled = worker_is_cancelled()
        what = self.rows[0].name if len(paths) == 1 else plural(len(paths), "checkpoint")
        progress = ByteProgress(self, "validate", f"checking {what}:", sum(map(bytes_of, paths)))
        done: list[Validation] = []
        verdicts = validate_all(
            paths,
            LEVELS,
            on_bytes=progress.add,
            on_start=lambda index: self.post_message(Started(index)),
            is_cancelled=is_cancelled,
        )
        try:
            for one in verdicts:
                done.append(one.validation)
                self.post_message(Judged(one.index, one.validation))
        except Cancelled:
            pass  # what is judged stays on the screen
        return done

    def on_started(self, message: Started) -> None:
        row = self.rows[message.index]
        if row.validation is None:
            self.rows[message.index] = FileRow(row.path, row.name, "checking ...")
            self._show_rows()

    def on_judged(self, message: Judged) -> None:
        row = self.rows[message.index]
        self.rows[message.index] = FileRow(row.path, row.name, "", message.validation)
        self._show_rows()

    def work_progress(self, group: str, text: str) -> None:
        self._progress = text
        self._show_facts()

    def work_done(self, group: str, result: Any) -> None:
        self._finish(result)

    def work_failed(self, group: str, error: CkptError) -> None:
        self._problem, self._progress = error, ""
        self._show_rows()

    def _finish(self, validations: list[Validation]) -> None:
        verdicts = Counter(validation.verdict for validation in validations)
        num_bytes = sum(validation.bytes_checked for validation in validations)
        seconds = sum(validation.seconds for validation in validations)
        rate = f", {size(num_bytes / seconds)}/s" if seconds > 0 else ""
        if len(validations) == 1:
            self._summary = [verdict_words(validations[0].verdict)]
        else:
            self._summary = [
                (f"{count} {words}  ", role)
                for (words, role), count in ((verdict_words(verdict), count) for verdict, count in verdicts.items())
            ]
        self._summary.append((f"  {size(num_bytes)} in {duration(seconds)}{rate}", "dim"))
        self._progress = ""
        self._show_rows()

    # -- drawing ------------------------------------------------------------------------------------------------

    def _show_rows(self) -> None:
        self.query_one("#files", VirtualList).set_rows(list(self.rows))
        self._arrange()
        self._show_file()

    def _show_facts(self) -> None:
        width = max(self.size.width - 2, 10)
        what = self.rows[0].name if len(self.rows) == 1 else plural(len(self.rows), "checkpoint")
        if self._progress:
            second = line((self._progress, "accent"), ("  Esc stops", "dim"))
        elif self._problem is not None:
            second = line(("✖ ", "error"), (self._problem.title, "error"), f": {self._problem.message}")
        else:
            said = self._summary or ["stopped; v checks again"]
            second = line(*(said if parts_width(said) <= width else said[:-1]))
        top = spread([("Validate ", "dim"), (what, "strong")], [], width)
        self.show("facts", lines(top, second))

    @property
    def current(self) -> FileRow:
        cursor = self.query_one("#files", VirtualList).cursor
        return self.rows[min(cursor, len(self.rows) - 1)]

    def _show_file(self) -> None:
        self._show_facts()
        validation = self.current.validation
        self.show("levels", levels_content(validation, max(self.size.width - 2, 10)))
        findings = self.query_one("#findings", VirtualList)
        findings.set_empty_text("" if validation is None else "nothing is wrong at any level that was checked")
        findings.set_rows(sorted_by_severity(validation.findings) if validation else [])
        self._show_detail()

    def _show_detail(self) -> None:
        finding = self.query_one("#findings", VirtualList).cursor_row
        if self._problem is not None:
            content = error_content(self._problem)
        elif finding is not None:
            content = finding_content(finding)
        else:
            content = Content("")
        self.show("detail", content)

    # -- messages and actions -----------------------------------------------------------------------------------

    @on(VirtualList.Moved, "#files")
    def _file_moved(self) -> None:
        self._show_file()

    @on(VirtualList.Moved, "#findings")
    def _finding_moved(self) -> None:
        self._show_detail()

    @on(VirtualList.Selected, "#files")
    def action_inspect(self) -> None:
        from ckpt_tui.tui.screens.inspect import InspectScreen

        self.app.push_screen(InspectScreen(self.current.path))

    def action_leave(self) -> None:
        if self.cancel_work("validate"):
            self._progress = ""
            self.rows = [replace(row, doing="not checked" if row.validation is None else "") for row in self.rows]
            self._show_rows()
        else:
            self.dismiss(None)


def rows_of(paths: Sequence[str]) -> list[FileRow]:
    """A row a checkpoint, a directory's own ones in its place, with names as short as tells them apart."""
    from ckpt_tui.services.validation_run import find_checkpoints

    found: list[str] = []
    for path in paths:
        try:
            found += find_checkpoints(path)
        except CkptError:
            found.append(path)  # its verdict will say why
    names = [Path(path).name or path for path in found]
    unique = len(set(names)) == len(names)
    return [FileRow(path, names[index] if unique else path) for index, path in enumerate(found)]


def file_cells(row: FileRow) -> tuple[Cell, ...]:
    validation = row.validation
    if validation is None:
        return (row.name, (row.doing, "dim"), *("" for _ in LEVELS), "", "")
    step = f"{validation.step:,}" if validation.step is not None and abs(validation.step) < 10**12 else ""
    outcomes = (outcome_words(validation.levels.get(level, "not-checked")) for level in LEVELS)
    return (row.name, verdict_words(validation.verdict), *outcomes, step, size(validation.size_bytes))


def finding_cells(finding: Finding) -> tuple[Cell, ...]:
    return (severity_words(finding.severity), (finding.level, "dim"), finding.where, finding.message)


def levels_content(validation: Validation | None, width: int = 80) -> Content:
    """Every level with its outcome, on one line: what could not be checked is said, never passed over. Where there is
    no room for all, what fails comes first, and nothing is cut in the middle of a word."""
    if validation is None:
        return Content("")
    outcomes = {level: validation.levels.get(level, "not-checked") for level in LEVELS}
    if set(outcomes.values()) == {"pass"}:
        named = f"  {', '.join(LEVELS)}"
        whole = "✓ every level passes"
        return line((whole, "good"), (named if len(whole) + len(named) <= width else "", "dim"))
    others = {
        name: [level for level in LEVELS if outcomes[level] == name] for name in ("not-checked", "not-applicable")
    }
    groups: list[list[Part]] = [
        [f"{level} ", outcome_words(outcome)] for level, outcome in outcomes.items() if outcome not in others
    ]
    # Both at once have to fit on 80 columns, as for every safetensors.
    is_short = all(others.values())
    for outcome, words in (("not-checked", "not checked"), ("not-applicable", "n/a" if is_short else "does not apply")):
        if others[outcome]:
            groups.append([(f"- {words}: {', '.join(others[outcome])}", "dim")])
    if parts_width(_joined(groups)) > width:
        groups.sort(key=lambda group: group[0] not in {f"{level} " for level in LEVELS if outcomes[level] == "fail"})
        while len(groups) > 1 and parts_width(_joined(groups)) > width:
            groups.pop()
    return line(*_joined(groups))


def _joined(groups: list[list[Part]]) -> list[Part]:
    return [part for at, group in enumerate(groups) for part in (["  ", *group] if at else group)]


def finding_content(finding: Finding) -> Content:
    """A finding in full: where, what is wrong and what it means, what to do."""
    words, role = severity_words(finding.severity)
    rows = [line((words, role), "  ", (finding.where, "strong")), line(finding.message)]
    if finding.hint:
        rows.append(line(("-> ", "accent"), finding.hint))
    return lines(*rows)
