"""What is in a checkpoint: how far training was, settings, weights, optimizer, and whether it is safe to open.

Reads the file's directory and its pickle, never the tensors (but with --stats), and runs nothing that is in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ckpt_tui import text
from ckpt_tui.output import Cell, Column, CommandResult, Output, Style, table, wrapped

TYPE_CHECKING = False  # what `typing` says, without the 4 ms to import it
if TYPE_CHECKING:
    from ckpt_tui.checkpoints.model import Checkpoint, TensorInfo

EXAMPLES = (
    "ckpt-tui inspect checkpoints/latest.pt",
    "ckpt-tui inspect model.safetensors --filter '*attn*' --stats",
    "ckpt-tui inspect checkpoint-500/ --screen",
    "ckpt-tui inspect latest.pt --json",
)
# Together about 60 lines when everything is there.
_SHOWN_TENSORS = 10
_SHOWN_SETTINGS = 10
_SHOWN_MODULES = 8
_SHOWN_GROUPS = 4
_MAX_WRAPPERS = 3
_SHOWN_OPTIMIZERS = 4
_SHOWN_GLOBALS = 5
_SHOWN_FINDINGS = 6
_SHOWN_FILES = 12
_SHOWN_REFUSED = 3
_MARKS = {
    "safe": ("safe to open", "good"),
    "unknown": ("unknown code in it", "warn"),
    "dangerous": ("DANGEROUS", "bad"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="checkpoint: a file, or a directory that is one")
    parser.add_argument("--filter", metavar="GLOB", help="only tensors whose name matches, as in '*.attn.*'")
    parser.add_argument("--all", action="store_true", help="every tensor, module and setting, however many")
    parser.add_argument("--screen", action="store_true", help="look at it on a screen: tree, filter, sort, histograms")
    parser.add_argument("--stats", action="store_true", help="read the tensors: min, max, mean, std, norm, NaN, Inf")


def run(args: argparse.Namespace, out: Output) -> CommandResult | int:
    if args.screen:
        return _on_screen(args)
    import gc

    from ckpt_tui.checkpoints.facts import count_parameters, model_tensors
    from ckpt_tui.checkpoints.registry import open_checkpoint

    checkpoint = open_checkpoint(args.path)
    # All of this lives until the end: the collector need not go through it again, then neither.
    gc.freeze()
    chosen = checkpoint.tensors
    if args.filter:
        from fnmatch import translate
        from re import compile as compile_pattern

        matches = compile_pattern(translate(args.filter)).match
        chosen = [t for t in chosen if matches(t.name) or (t.file and matches(f"{t.file}:{t.name}"))]
    statistics = _statistics(checkpoint, chosen, out) if args.stats else {}
    num_parameters = count_parameters(model_tensors(checkpoint))
    data: dict[str, object] = {}
    if out.as_json:
        from ckpt_tui.commands.inspect_json import inspect_data

        data = inspect_data(checkpoint, chosen, num_parameters, statistics)
    return CommandResult(
        data=data, view=lambda s: _lines(checkpoint, chosen, num_parameters, statistics, args.all, args.filter, s)
    )


def _on_screen(args: argparse.Namespace) -> int:
    """The same on a screen: tree, filter, sort, histograms."""
    from ckpt_tui.commands.on_screen import check_before, run_app
    from ckpt_tui.errors import CkptError

    if args.json or args.stats or args.filter or args.all:
        raise CkptError("Usage", "--screen goes with none of --json, --stats, --filter, --all")
    settings = check_before([args.path])
    from ckpt_tui.tui.inspect_app import InspectApp

    return run_app(InspectApp(args.path, settings=settings))


def _statistics(checkpoint: Checkpoint, chosen: list[TensorInfo], out: Output) -> dict[int, dict[str, object]]:
    """Statistics by position in `chosen`; what cannot be read has none, and a note says why."""
    from ckpt_tui.checkpoints.values import tensor_statistics
    from ckpt_tui.errors import CkptError

    found: dict[int, dict[str, object]] = {}
    with out.progress("reading", sum(tensor.size_bytes for tensor in chosen)) as progress:
        for position, tensor in enumerate(chosen):
            try:
                values = tensor_statistics(checkpoint, tensor, bins=0, on_bytes=progress.advance)
            except CkptError as error:
                out.note(f"{text.safe_text(tensor.name)}: {text.safe_text(error.message or error.title)}")
                continue
            names = ("min", "max", "mean", "std", "norm", "zeros", "nan", "inf")
            found[position] = {name: getattr(values, name) for name in names}
    return found


def _lines(
    checkpoint: Checkpoint,
    chosen: list[TensorInfo],
    num_parameters: int,
    statistics: dict[int, dict[str, object]],
    everything: bool,
    pattern: str | None,
    style: Style,
) -> Iterator[str]:
    yield _first_line(checkpoint, style)
    yield from _warnings(checkpoint, everything, style)
    shown = [f"{key} {_progress(key, value)}" for key, value in checkpoint.progress.items() if key != "saved_at"][:8]
    yield from wrapped("  ".join(shown) or "it tells of no step", style)
    tensors = text.plural(sum(not tensor.is_component for tensor in checkpoint.tensors), "tensor")
    if "model" in checkpoint.has:
        yield f"{text.short_count(num_parameters)} parameters and buffers in the model, {tensors} in all"
    elif checkpoint.tensors:
        yield f"no part of it is known to be a model, {tensors} in all"
    if checkpoint.has:
        yield f"has {', '.join(checkpoint.has)}"
    yield from _weights_only(checkpoint, everything, style)
    yield from _files(checkpoint, everything, style)
    yield from _settings(checkpoint, everything, style)
    yield from _modules(checkpoint, everything, style)
    yield from _optimizer(checkpoint, everything, style)
    yield from _tensors(chosen, statistics, everything, pattern, style)
    if checkpoint.findings:
        yield ""
    for finding in checkpoint.findings[: None if everything else _SHOWN_FINDINGS]:
        where = f"{text.safe_text(finding.where, 60)}: " if finding.where else ""
        line = f"{finding.severity}: {where}{text.safe_text(finding.message, 300)}"
        for part in wrapped(line, style):
            yield style.paint(part, "bad" if finding.severity == "error" else "warn")
    yield from _more(len(checkpoint.findings), _SHOWN_FINDINGS, everything, style)


def _first_line(checkpoint: Checkpoint, style: Style) -> str:
    """What it is, how large, when it was saved, and whether it may be opened."""
    word, role = _MARKS[checkpoint.safety]
    name = text.safe_text(checkpoint.path.rstrip("/").rsplit("/", 1)[-1] or checkpoint.path, 60)
    saved_at = checkpoint.progress.get("saved_at")
    saved = f" · saved {_when(saved_at)}" if isinstance(saved_at, (int, float)) else ""
    facts = f"{checkpoint.format.replace('-', ' ')} · {text.size(checkpoint.size_bytes)}{saved} · "
    return (
        f"{style.paint(name, 'bold')}  {facts if style.unicode else facts.replace('·', '-')}{style.paint(word, role)}"
    )


def _warnings(checkpoint: Checkpoint, everything: bool, style: Style) -> Iterator[str]:
    """What a person must know before anything else: that loading it may run code, that it is damaged."""
    odd = [ref for verdict in ("dangerous", "unknown") for ref in checkpoint.globals if ref.verdict == verdict]
    if odd:
        role = "bad" if odd[0].verdict == "dangerous" else "warn"
        yield style.paint("safe to list, not safe to load: a full unpickler would reach", role)
        for ref in odd[: None if everything else _SHOWN_GLOBALS]:
            line = f"{ref.verdict}: {text.safe_text(ref.name, 80)}: {ref.reason}"
            for part in wrapped(line, style, 2):
                yield "  " + style.paint(part, "bad" if ref.verdict == "dangerous" else "warn")
        yield from _more(len(odd), _SHOWN_GLOBALS, everything, style)
    num_errors = sum(finding.severity == "error" for finding in checkpoint.findings)
    if num_errors:
        yield style.paint(f"damaged: {text.plural(num_errors, 'error')}, listed at the end", "bad")


def _weights_only(checkpoint: Checkpoint, everything: bool, style: Style) -> Iterator[str]:
    """Whether torch.load takes it as it is, and what is in the way."""
    if not checkpoint.globals and not checkpoint.format.startswith(("torch", "pickle")):
        return
    from ckpt_tui.checkpoints.weights_only import weights_only

    found = weights_only(checkpoint)
    if found.loads:
        yield "torch.load(weights_only=True) takes it"
        return
    shown = found.refuses if everything else found.refuses[:_SHOWN_REFUSED]
    rest = len(found.refuses) - len(shown)
    names = ", ".join(text.safe_text(name, 80) for name in shown) + (f" and {rest:,} more" if rest else "")
    if found.reason and found.loads is False:
        names = found.reason
    if names:
        which = "the files that name" if any(part.file for part in checkpoint.parts) else "it:"
        yield from wrapped(f"torch.load(weights_only=True) refuses {which} {names}", style)


def _files(checkpoint: Checkpoint, everything: bool, style: Style) -> Iterator[str]:
    """Of a directory: which file is what, and which are not there, or of no use."""
    if not any(part.file for part in checkpoint.parts) and not any(tensor.file for tensor in checkpoint.tensors):
        return
    from ckpt_tui.checkpoints.contents import files_of

    files = files_of(checkpoint)
    rows: list[list[Cell]] = [
        [
            text.safe_text(file.name, 80),
            (file.fault, "bad") if file.fault else ", ".join(file.roles),
            text.count(file.num_tensors) if file.num_tensors else "",
            "" if file.size_bytes is None else text.size(file.size_bytes),
        ]
        for file in files
    ]
    columns = [Column("file", shrink=True, keep="end"), Column("what"), Column("tensors", "right")]
    yield ""
    # What is missing or unreadable is never left out.
    limit = None if everything else max(_SHOWN_FILES, sum(bool(file.fault) for file in files))
    yield from table([*columns, Column("size", "right")], rows[:limit], style)
    yield from _more(len(rows), limit or 0, everything, style)


def _more(total: int, shown: int, everything: bool, style: Style) -> Iterator[str]:
    if total > shown and not everything:
        yield style.paint(f"  ... {total - shown:,} more: --all", "dim")


def _settings(checkpoint: Checkpoint, everything: bool, style: Style) -> Iterator[str]:
    settings = list(checkpoint.hyperparameters.items())
    if settings:
        yield ""
        rows = [(text.safe_text(key, 40), _typed(value)) for key, value in settings]
        yield from table(
            [Column("setting"), Column("value", shrink=True)], rows[: None if everything else _SHOWN_SETTINGS], style
        )
        yield from _more(len(rows), _SHOWN_SETTINGS, everything, style)


def _modules(checkpoint: Checkpoint, everything: bool, style: Style) -> Iterator[str]:
    from ckpt_tui.checkpoints.facts import model_tensors, module_weights

    prefixes = [part.prefix for part in checkpoint.parts if part.role == "model"]
    prefix = prefixes[0] if len(prefixes) == 1 else ""  # of two networks each keeps its name
    tensors = model_tensors(checkpoint)
    weights = module_weights(tensors, prefix)
    for depth in range(2, _MAX_WRAPPERS + 2):  # below `transformer`, or what DDP and torch.compile wrap it in
        if len(weights) > 1 or not weights:
            break
        weights = module_weights(tensors, prefix, depth)
    if len(weights) > 1:
        yield ""
        rows = [(text.safe_text(name, 60), text.count(n), text.size(num)) for name, (n, num) in weights.items()]
        columns = [Column("module", shrink=True), Column("parameters", "right"), Column("size", "right")]
        yield from table(columns, rows[: None if everything else _SHOWN_MODULES], style)
        yield from _more(len(rows), _SHOWN_MODULES, everything, style)


def _optimizer(checkpoint: Checkpoint, everything: bool, style: Style) -> Iterator[str]:
    if not isinstance(checkpoint.optimizer.get("groups"), list):
        return
    yield ""
    yield from _one_optimizer(checkpoint.optimizer, everything, style)
    others = checkpoint.optimizer.get("others")
    if isinstance(others, list):
        for other in others if everything else others[: _SHOWN_OPTIMIZERS - 1]:
            yield from _one_optimizer(other, everything, style)
        yield from _more(len(others) + 1, _SHOWN_OPTIMIZERS, everything, style)


def _one_optimizer(optimizer: dict[str, object], everything: bool, style: Style) -> Iterator[str]:
    groups = optimizer.get("groups")
    assert isinstance(groups, list)
    moments = optimizer.get("state")
    names = ", ".join(text.safe_text(name, 40) for name in moments) if isinstance(moments, dict) else ""
    kind = text.safe_text(optimizer.get("type", "of unknown type"), 40)
    name = f"{text.safe_text(optimizer['name'], 60)}: " if "name" in optimizer else ""
    yield from wrapped(f"optimizer {name}{kind}" + (f", state: {names}" if names else ""), style)
    for number, group in enumerate(groups if everything else groups[:_SHOWN_GROUPS]):
        if isinstance(group, dict):
            parts = [
                f"{key} {_typed(group[key])}" for key in ("lr", "betas", "momentum", "weight_decay") if key in group
            ]
            line = f"group {number}: {'  '.join([text.plural(group['num_parameters'], 'tensor'), *parts])}"
            for part in wrapped(line, style, 2):
                yield "  " + part
    yield from _more(len(groups), _SHOWN_GROUPS, everything, style)


def _tensors(
    chosen: list[TensorInfo],
    statistics: dict[int, dict[str, object]],
    everything: bool,
    pattern: str | None,
    style: Style,
) -> Iterator[str]:
    yield ""
    if not chosen:
        yield f"no tensor's name matches {text.safe_text(pattern, 80)}" if pattern else "no tensors in it"
        return
    order = list(range(len(chosen)))
    if statistics:
        bad = {position for position, values in statistics.items() if values.get("nan") or values.get("inf")}
        read = text.plural(len(statistics), "tensor")
        if bad:
            yield style.paint(f"{len(bad):,} of {read} hold NaN or Inf; they come first", "bad")
        else:
            yield f"no NaN and no Inf in {read}"
        order.sort(key=lambda position: position not in bad)
    files = {tensor.file for tensor in chosen}
    columns = [Column("tensor", shrink=True, keep="end"), Column("shape"), Column("dtype"), Column("size", "right")]
    if len(files) > 1:
        columns.insert(1, Column("file", shrink=True, keep="end"))
    words = ("min", "max", "mean", "std", "nan", "inf") if statistics else ()
    columns += [Column(word, "right") for word in words]
    rows: list[list[Cell]] = []
    for position in order if everything else order[:_SHOWN_TENSORS]:
        tensor = chosen[position]
        shape = text.safe_text(" x ".join(map(str, tensor.shape)) or "scalar", 40)
        dtype = tensor.dtype if tensor.layout == "strided" else f"{tensor.dtype} {text.safe_text(tensor.layout, 20)}"
        name: Cell = text.safe_text(tensor.name)
        row: list[Cell] = [
            (f"  {name}", "dim") if tensor.is_component else name, shape, dtype, text.size(tensor.size_bytes),
        ]  # fmt: skip
        if len(files) > 1:
            row.insert(1, (text.safe_text(tensor.file), "dim"))
        values = statistics.get(position, {})
        row += [_statistic(word, values.get(word)) for word in words]
        rows.append(row)
    for spare in ("size", "dtype", "std", "shape") if statistics else ():
        if style.width is None or _least_width(columns, rows) <= style.width:
            break
        at = next(i for i, column in enumerate(columns) if column.title == spare)
        del columns[at]
        for row in rows:
            del row[at]
    yield from table(columns, rows, style)
    yield from _more(len(chosen), _SHOWN_TENSORS, everything, style)


def _least_width(columns: list[Column], rows: list[list[Cell]]) -> int:
    """How wide a table must be when its columns that can shrink have shrunk."""
    total = 2 * (len(columns) - 1)
    for at, column in enumerate(columns):
        cells = [row[at] for row in rows]
        widest = max([len(column.title), *(text.cell_width(c[0] if isinstance(c, tuple) else c) for c in cells)])
        total += min(widest, 12) if column.shrink else widest
    return total


def _statistic(word: str, value: object) -> Cell:
    if type(value) is int:
        return (text.count(value), "bad") if value and word in ("nan", "inf") else text.count(value)
    return text.metric(value) if type(value) is float else "-"


def _when(seconds: float) -> str:
    import time

    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return "at no known time"


def _progress(key: str, value: object) -> str:
    """A step with thousands, an epoch with its fraction, anything else as a metric."""
    if key == "epoch" and type(value) is float and abs(value) < 1e9:
        return f"{value:,.2f}".rstrip("0").rstrip(".")
    if type(value) is int:
        return f"{value:,}" if value.bit_length() < 128 else _typed(value)
    return text.metric(value) if type(value) is float else _typed(value)


def _typed(value: object) -> str:
    """A setting as a person types it: 0.0, 0.001, 1e-5, 1500; numbers that came out of arithmetic in six digits."""
    if type(value) is float:
        shown = repr(value)
        if len(shown) > 10:
            shown = f"{value:.6g}"
        return shown.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    if type(value) is int:
        return str(value) if value.bit_length() < 128 else f"a number of {value.bit_length():,} bits"
    if isinstance(value, (list, tuple)):
        if 0 < len(value) <= 8 and all(type(item) in (int, float) for item in value):
            return " ".join(map(_typed, value))
        return "[" + ", ".join(map(_typed, value[:8])) + (", ...]" if len(value) > 8 else "]")
    if isinstance(value, dict):
        shown_items = [f"{text.safe_text(key, 30)}: {_typed(item)}" for key, item in list(value.items())[:8]]
        return "{" + ", ".join(shown_items) + (", ...}" if len(value) > 8 else "}")
    return text.safe_text(value, 120)
