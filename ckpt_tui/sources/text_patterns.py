"""What single lines of text logs say: a pattern for each program whose lines are known, and a fallback for the others.

Every pattern gives a `Row` or None. The formats were read in the programs' sources: nanoGPT (train.py, 2024-11),
nanochat (scripts/base_train.py, 2026-01), torchtitan (components/metrics.py, 2025-07; older ones without grad_norm),
litgpt (pretrain.py, finetune/lora.py, 0.4 and 0.5), Megatron-LM (training/training.py, core 0.12), torchtune
(DiskLogger of metric_logging.py, 0.6), timm (train.py, 1.0), the ImageNet example of PyTorch, Lightning's bar (2.6).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ckpt_tui.sources.rows import Row
from ckpt_tui.sources.values import moment, number, whole

NUMBER = r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf(?:inity)?)\b"
MAX_PAIRS = 64

_NUMBER = re.compile(NUMBER, re.IGNORECASE)
_PAIR = re.compile(
    rf"([A-Za-z][\w/.()%@ -]{{0,40}}?)\s*[:=]\s*({NUMBER})(?:[A-Za-z%][\w/%]{{0,8}})?(?![\w:])", re.IGNORECASE
)
_LINE_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?")

_NANOGPT_ITER = re.compile(rf"iter (\d+): loss ({NUMBER}), time ({NUMBER})ms(?:, mfu ({NUMBER})%)?", re.IGNORECASE)
_NANOGPT_EVAL = re.compile(rf"step (\d+): train loss ({NUMBER}), val loss ({NUMBER})", re.IGNORECASE)
_NANOCHAT_STEP = re.compile(r"step (\d+)(?:/(\d+))? \(([\d.]+)%\) \| (.*)")
_NANOCHAT_EVAL = re.compile(rf"Step (\d+) \| (Validation bpb|Validation loss|CORE metric): ({NUMBER})", re.IGNORECASE)
_TITAN = re.compile(r"(validate )?step:\s*(\d+)(?:\s*/\s*(\d+)(?: = [\d.]+%)?)?\s+(?=loss:\s)")
_LITGPT = re.compile(
    rf"Epoch (\d+) \| iter (\d+) step (\d+) \| loss train: ({NUMBER}), val: ({NUMBER}|n/a)(.*)", re.IGNORECASE
)
_LITGPT_EVAL = re.compile(rf"iter (\d+): val loss ({NUMBER}), val time: ({NUMBER}) ms", re.IGNORECASE)
_LITGPT_TIME = re.compile(rf"iter time: ({NUMBER}) ms", re.IGNORECASE)
_MEGATRON = re.compile(r"\biteration\s+(\d+)\s*/\s*(\d+)\s*\|(.*)")
_MEGATRON_EVAL = re.compile(r"validation loss at iteration (\d+)[^|]*\|(.*)")
_TORCHTUNE = re.compile(r"^Step (\d+) \| (.*)")
_TIMM = re.compile(r"Train: (\d+) \[\s*(\d+)/(\d+) \(\s*\d+%\)\](.*)")
_IMAGENET = re.compile(r"Epoch: \[(\d+)\]\s*\[\s*(\d+)/(\d+)\](.*)")
_NUMBER_AND_MEAN = re.compile(rf"([A-Za-z@\d][\w@]*):?\s+({NUMBER})\s*(?:[a-z/]*\s*)\(\s*{NUMBER}\s*\)", re.IGNORECASE)


_LR = re.compile(rf"\bLR: ({NUMBER})")


def line_moment(line: str) -> float | None:
    """The time of day that loggers put at the beginning of a line."""
    found = _LINE_MOMENT.search(line, 0, 60)
    return moment(found[0]) if found is not None else None


def pairs(text: str) -> dict[str, float]:
    """`key: 1.0`, `key=1.0` wherever they stand."""
    found: dict[str, float] = {}
    for match in _PAIR.finditer(text):
        value = number(match[2])
        name = _tidy(match[1])
        if value is not None and name and len(found) < MAX_PAIRS:
            found.setdefault(name, value)
    return found


def _tidy(name: str) -> str:
    """The last words before a separator: `Epoch 3 - loss` is `loss`."""
    return re.split(r"\s-\s|\d\s|\s{2,}|\)\s", name)[-1].strip(" -.")


def nanogpt(line: str) -> Row | None:
    if match := _NANOGPT_ITER.search(line):
        metrics = {"loss": number(match[2]), "step_seconds": _of_ms(number(match[3])), "mfu": number(match[4])}
        return Row(_told(metrics), whole(match[1]))
    if match := _NANOGPT_EVAL.search(line):
        return Row(_told({"eval_train_loss": number(match[2]), "val_loss": number(match[3])}), whole(match[1]))
    return None


def nanochat(line: str) -> Row | None:
    if match := _NANOCHAT_STEP.search(line):
        metrics: dict[str, float] = {}
        for part in match[4].split(" | "):
            name, colon, rest = part.partition(":")
            value = _NUMBER.match(rest.strip())
            if colon and value and (found := number(value[0])) is not None:
                metrics[name.strip()] = found
        for name in ("eta", "total time"):
            metrics.pop(name, None)
        if (took_ms := metrics.pop("dt", None)) is not None:
            metrics["step_seconds"] = took_ms / 1000
        row = Row(metrics, whole(match[1]), metrics.pop("epoch", None))
        row.total_steps = whole(match[2]) or 0
        return row
    if match := _NANOCHAT_EVAL.search(line):
        name = {"validation bpb": "val_bpb", "validation loss": "val_loss"}.get(match[2].lower(), "eval_core")
        return Row(_told({name: number(match[3])}), whole(match[1]))
    return None


def torchtitan(line: str) -> Row | None:
    match = _TITAN.search(line)
    if match is None:
        return None
    metrics = pairs(line[match.end() :])
    if "memory" in metrics:
        metrics["memory_gib"] = metrics.pop("memory")
    if match[1]:
        metrics = {f"val_{name}": value for name, value in metrics.items()}
    return Row(metrics, whole(match[2]), total_steps=whole(match[3]) or 0)


def litgpt(line: str) -> Row | None:
    if match := _LITGPT.search(line):
        metrics = {"loss": number(match[4])}
        if took := _LITGPT_TIME.search(match[6]):
            metrics["iter_ms"] = number(took[1])
        return Row(_told(metrics), whole(match[3]), number(match[1]))
    if match := _LITGPT_EVAL.search(line):
        return Row(_told({"val_loss": number(match[2])}))  # counted in iterations: the step is the last one told
    return None


def megatron(line: str) -> Row | None:
    if match := _MEGATRON.search(line):
        metrics: dict[str, float] = {}
        for part in match[3].split("|"):
            name, colon, value = part.rpartition(":")
            if not colon:  # older ones: `learning rate 1.0E-04`
                name, _, value = part.strip().rpartition(" ")
            if (found := number(value)) is not None and name.strip():
                metrics[name.strip()] = found
        if (took_ms := metrics.pop("elapsed time per iteration (ms)", None)) is not None:
            metrics["step_seconds"] = took_ms / 1000
        row = Row(metrics, whole(match[1]))
        row.total_steps = whole(match[2]) or 0
        return row
    if match := _MEGATRON_EVAL.search(line):
        found_ = pairs(match[2].replace("value", ""))
        metrics = {f"val_{name.removeprefix('lm ')}": value for name, value in found_.items()}
        return Row(metrics, whole(match[1])) if metrics else None
    return None


def torchtune(line: str) -> Row | None:
    match = _TORCHTUNE.search(line)
    if match is None:
        return None
    metrics = pairs(match[2])
    return Row(metrics, whole(match[1])) if metrics else None


def by_batches(line: str) -> Row | None:
    """timm and the ImageNet example: the batch in the epoch, and the batches of one."""
    match = _TIMM.search(line) or _IMAGENET.search(line)
    if match is None:
        return None
    metrics = {m[1]: value for m in _NUMBER_AND_MEAN.finditer(match[4]) if (value := number(m[2])) is not None}
    if (lr := _LR.search(match[4])) is not None and (rate := number(lr[1])) is not None:
        metrics["lr"] = rate
    epoch, batch, batches = (whole(match[at]) or 0 for at in (1, 2, 3))
    if not metrics or not batches:
        return None
    metrics = {name[:1].lower() + name[1:]: value for name, value in metrics.items() if name not in ("Time", "Data")}
    row = Row(metrics, epoch * batches + batch, epoch)
    row.steps_per_epoch = batches
    return row


_STEP_OF = re.compile(
    r"(?<![A-Za-z_])(?:global[_ ]?step|step|iteration|iter|update|it)\b[\s:=#\[(]*(\d[\d,]*)"
    r"(?:\s*(?:/|of)\s*(\d[\d,]*))?",
    re.IGNORECASE,
)
_EPOCH_OF = re.compile(r"(?<![A-Za-z_])epoch\b[\s:=#\[(]*(\d+(?:\.\d+)?)(?:\s*(?:/|of)\s*(\d+))?", re.IGNORECASE)
_TELLING = re.compile(r"loss|acc|perplexity|ppl|reward|bleu|error|mse|mae|f1|iou|map", re.IGNORECASE)
_WHERE = frozenset({"step", "steps", "global_step", "global step", "iteration", "iter", "update", "it", "epoch"})


def anything(line: str) -> Row | None:
    """A line of no known program that names a step (or an epoch) and a loss or another measure beside it."""
    step, epoch = _STEP_OF.search(line), _EPOCH_OF.search(line)
    if (step is None and epoch is None) or not _TELLING.search(line):
        return None
    metrics = {name: value for name, value in pairs(line).items() if name.lower() not in _WHERE}
    if not any(_TELLING.search(name) for name in metrics):
        bare = _BARE.search(line)
        value = number(bare[2]) if bare is not None else None
        if bare is None or value is None:
            return None
        metrics[bare[1]] = value
    row = Row(metrics, epoch=number(epoch[1]) if epoch is not None else None)
    if step is not None:
        row.step = whole(step[1])
        row.total_steps = whole(step[2]) or 0 if step[2] else 0
    elif epoch is not None:
        row.step = whole(epoch[1])
        row.total_steps = whole(epoch[2]) or 0 if epoch[2] else 0
        row.step_unit = "epoch"
    return row if row.step is not None else None


_BARE = re.compile(rf"\b((?:train[_ ]|val[_ ]|valid[_ ]|test[_ ])?loss)\s+({NUMBER})(?![\w:])", re.IGNORECASE)

# The surest first: the fallback takes whatever looks like a measurement.
PATTERNS: tuple[Callable[[str], Row | None], ...] = (
    nanogpt, nanochat, litgpt, megatron, torchtitan, torchtune, by_batches, anything,
)  # fmt: skip


def _of_ms(value: float | None) -> float | None:
    return value / 1000 if value is not None else None


def _told(metrics: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value is not None}
