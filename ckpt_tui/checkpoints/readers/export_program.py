"""What loading the program of a `.pt2` archive would run: its sizes are texts that torch hands to sympy's `eval`.

A graph itself is data. But `torch.export.load` gives every `expr_str` to `sympy.sympify`, which evaluates it as
Python (tried: a command in one runs), and resolves each target among torch's attributes, for the model to call.
"""

from __future__ import annotations

import re

from ckpt_tui.checkpoints.bounded_json import MAX_JSON_BYTES, parse_json
from ckpt_tui.checkpoints.dangerous_globals import danger_of
from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint, GlobalRef, Verdict
from ckpt_tui.checkpoints.readers.zip_records import read_record
from ckpt_tui.checkpoints.zip_index import ZipEntry
from ckpt_tui.errors import CkptError
from ckpt_tui.text import safe_text

_MAX_EXPRESSION = 100_000  # characters
# What sizes are made of: names, numbers, sympy's constructors and torch's own functions of sizes.
_TOKEN = re.compile(r"\s+|'\w*'|\d+(?:\.\d+)?(?:e[+-]?\d+)?|[-+*/%(),=<>&|~!]|([A-Za-z_]\w*)")
_NAMES = """
Symbol Dummy Integer Float Rational Add Mul Pow Mod Max Min Abs Piecewise ExprCondPair Eq Ne Lt Le Gt Ge Equality
Unequality StrictLessThan LessThan StrictGreaterThan GreaterThan And Or Not Xor ITE floor ceiling sqrt log exp
true false True False positive negative nonnegative nonzero integer real finite even odd zero commutative evaluate
precision oo zoo nan pi One Zero Half NegativeOne Infinity NegativeInfinity FloorDiv CleanDiv CeilDiv CeilToInt
FloorToInt IntTrueDiv FloatTrueDiv FloatPow LShift RShift BitwiseFn_bitwise_and BitwiseFn_bitwise_or
BitwiseFn_bitwise_xor ModularIndexing PythonMod PowByNatural RoundDecimal RoundToInt ToFloat TruncToFloat TruncToInt
IsNonOverlappingAndDenseIndicator OpaqueUnaryFn_sqrt Where Identity
"""
_WORDS = frozenset(_NAMES.split())
_VARIABLE = re.compile(r"(?:zuf|uf|zf|u|s|f|i|z)\d+")  # as torch names its sizes


def judge_program(descriptor: int, entry: ZipEntry, checkpoint: Checkpoint, limits: ReadLimits) -> None:
    """Add what the JSON of a program names, as far as it is not what torch writes, to the globals."""
    where = f"{checkpoint.path}: {safe_text(entry.name, 80)}"
    try:
        if entry.size_bytes > min(limits.max_json_bytes, MAX_JSON_BYTES):
            raise CkptError("Not readable", "it is larger than is read")
        program = parse_json(read_record(descriptor, entry, checkpoint.path), entry.name)
    except CkptError as error:
        reason = f"the program was not looked through: {safe_text(error.message, 80)}"
        checkpoint.globals.append(GlobalRef("sympy.sympify", Verdict.UNKNOWN, reason, where))
        return
    found: dict[str, GlobalRef] = {}
    waiting: list[object] = [program]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
            continue
        if not isinstance(value, dict):
            continue
        waiting += value.values()
        expression, target = value.get("expr_str"), value.get("target")
        if isinstance(expression, str) and not is_size(expression):
            reason = f"torch evaluates the text of a size as Python, and this one is none: {safe_text(expression, 60)}"
            found.setdefault("sympy.sympify", GlobalRef("sympy.sympify", Verdict.DANGEROUS, reason, where))
        if isinstance(target, str):
            module, _, name = target.rpartition(".")
            danger = danger_of(module, name) if not module.startswith("torch.ops.") else None
            if danger is not None and module not in ("operator", "_operator"):
                found.setdefault(target, GlobalRef(target, Verdict.DANGEROUS, f"{danger}; the model calls it", where))
    checkpoint.globals += found.values()


def is_size(expression: str) -> bool:
    """Whether a text is arithmetic on sizes as torch prints it, so that evaluating it computes and no more."""
    if len(expression) > _MAX_EXPRESSION:
        return False
    position = 0
    while position < len(expression):
        token = _TOKEN.match(expression, position)
        if token is None:
            return False
        word = token.group(1)
        if word is not None and word not in _WORDS and not _VARIABLE.fullmatch(word):
            return False
        position = token.end()
    return True
