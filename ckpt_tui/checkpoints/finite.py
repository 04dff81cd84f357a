"""The level `numbers`: NaN and Inf in the tensors, counted in each that has any.

The pass over the bytes says which storages hold something suspicious; only those are read again, tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise

from ckpt_tui.checkpoints.model import Checkpoint, Finding, Severity, TensorInfo
from ckpt_tui.errors import CkptError
from ckpt_tui.text import count, plural, safe_text

_ALWAYS_FINITE = frozenset({"float4_e2m1fn_x2"})  # its sixteen patterns are all numbers
MAX_FINDINGS = 1000  # the rest are counted in one more
# A metric that became infinite is news about the training, not damage of the weights.
_NOT_WEIGHTS = frozenset(
    {"loss_history", "metrics", "val_metrics", "best_metric", "train_loss", "val_loss", "losses", "history", "log"}
)
# What a best value is called that starts at Inf: Lightning's ModelCheckpoint (on by default) and EarlyStopping.
_STARTS_AT_INF = ("kth_value", "best_score", "best_model_score", "current_score")
_WEIGHTS = ("model", "optimizer", "ema")


def judge_numbers(
    checkpoint: Checkpoint,
    by_storage: Mapping[str, Sequence[TensorInfo]],
    suspicious: Collection[str],
    is_cancelled: Callable[[], bool] | None,
) -> tuple[str, list[Finding]]:
    """(outcome of the level, findings). by_storage: the tensors of each storage. suspicious: keys of storages in
    which something is NaN or Inf, or that could not be told. Raises Cancelled."""
    from ckpt_tui.checkpoints.elements import FLOAT_BITS

    to_count = set(suspicious)
    num_float = num_unread = num_bad = 0
    # What is made of others (sparse, nested) has no bytes of its own: its components follow it and are judged.
    listed = checkpoint.tensors
    composite = {id(one) for one, after in pairwise(listed) if after.is_component}
    for key, tensors in by_storage.items():
        kinds = {FLOAT_BITS.get(tensor.dtype) for tensor in tensors}
        shown = [t for t in tensors if t.dtype in FLOAT_BITS and (key or id(t) not in composite)]
        num_float += len(shown) + sum(1 for tensor in tensors if tensor.dtype in _ALWAYS_FINITE)
        storage = checkpoint.storages.get(key)
        if storage is None or storage.offset is None:
            num_unread += sum(1 for tensor in shown if tensor.num_elements and tensor.device != "meta")
        elif len(kinds) > 1 and shown:
            to_count.add(key)  # several kinds of numbers share it: each tensor is looked at by itself
    findings: list[Finding] = []
    failed = False
    if to_count:
        from ckpt_tui.checkpoints.values import count_nonfinite
    for tensor in checkpoint.tensors if to_count else ():
        if tensor.storage not in to_count or tensor.dtype not in FLOAT_BITS:
            continue
        try:
            counted = count_nonfinite(checkpoint, tensor, is_cancelled=is_cancelled)
        except CkptError:
            num_unread += 1
            continue
        if not counted.nan and not counted.inf:
            continue
        num_bad += 1
        is_metric = _is_metric(checkpoint, tensor)
        finding = _finding(tensor, counted.nan, counted.inf, counted.first_bad_index or 0, counted.is_mask, is_metric)
        failed |= finding.severity == Severity.ERROR
        if num_bad <= MAX_FINDINGS:
            findings.append(finding)
    if num_bad > MAX_FINDINGS:
        message = f"{plural(num_bad - MAX_FINDINGS, 'more tensor')} with NaN or Inf"
        findings.append(Finding("nonfinite", Severity.ERROR, "", message, level="numbers"))
    if num_unread:
        message = f"{plural(num_unread, 'tensor')} could not be looked at: no plain bytes in the file"
        findings.append(Finding("numbers-not-read", Severity.INFO, "", message, level="numbers"))
    if failed:
        return "fail", findings
    if not num_float:
        return "not-applicable", findings
    return "not-checked" if num_unread else "pass", findings


def _is_metric(checkpoint: Checkpoint, tensor: TensorInfo) -> bool:
    """Whether it tells of the training and is no weight: by its name, or a single number beside model and optimizer."""
    if not _NOT_WEIGHTS.isdisjoint(tensor.name.split(".")):
        return True
    weights = [part for part in checkpoint.parts if part.role in _WEIGHTS]
    return tensor.num_elements == 1 and bool(weights) and not any(part.holds(tensor) for part in weights)


def _finding(tensor: TensorInfo, nan: int, inf: int, first: int, is_mask: bool, is_metric: bool) -> Finding:
    name = safe_text(f"{tensor.file}: {tensor.name}" if tensor.file else tensor.name)
    index = []
    for extent in reversed(tensor.shape):
        first, here = divmod(first, extent)
        index.append(here)
    place = f"the first at {list(reversed(index))}" if index else "it is a single number"
    amounts = " and ".join(f"{count(n)} {word}" for n, word in ((nan, "NaN"), (inf, "Inf")) if n)
    message = f"{amounts} of {count(tensor.num_elements)}, {place}"
    if is_mask:
        message += "; only zeros and -Inf: an attention mask, as it should be"
        return Finding("mask", Severity.INFO, name, message, level="numbers")
    if is_metric and not nan and tensor.name.endswith(_STARTS_AT_INF):
        message += f"; {tensor.name.rpartition('.')[2]} before there is a best value, as it should be"
        return Finding("no-best-value", Severity.INFO, name, message, level="numbers")
    if is_metric:
        return Finding("nonfinite-metric", Severity.WARNING, name, message, level="numbers")
    hint = "Training on from it gives NaN. Go back to a checkpoint from before: `ckpt-tui rollback`."
    return Finding("nonfinite", Severity.ERROR, name, message, hint, "numbers")
