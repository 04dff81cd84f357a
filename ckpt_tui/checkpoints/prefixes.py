"""Which wrapper was around a model when it was saved, told by the names of two saves of it.

`DistributedDataParallel` puts `module.` before every name, `torch.compile` `_orig_mod.`, Lightning `model.`, PEFT
`base_model.model.`, and a model that is a part of another one has the part's name. A prefix is taken off only when that
makes most of the names and shapes agree, and no other choice comes near it: nothing is guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ckpt_tui.records import dataclass

Shape = tuple[int, ...]

# Words that stand before the names of a whole model because of what was around it.
_WRAPPERS = frozenset(
    {"module", "_orig_mod", "model", "_forward_module", "base_model", "ema_model", "net", "network",
     "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "student", "pl_module", "lit_model"}
)  # fmt: skip
# Words that only wrappers use, and that may stand anywhere in a name: of blocks that are wrapped one by one.
_INNER_WRAPPERS = frozenset(
    {"_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"}
)
_MAX_CHAIN = 4  # wrappers around one another
_MAX_WORDS = 16  # of a prefix: a name can be a million dots
_ENOUGH = 0.5  # of the names of the smaller side must agree after the change
_RIVAL = 0.5  # another choice that makes this share of them agree too: it could be either


@dataclass(frozen=True, slots=True)
class Renaming:
    """What is taken off the names of both sides before they are compared. inner: wrappers' words inside the names."""

    prefix_a: str = ""
    prefix_b: str = ""
    inner: bool = False

    def name_a(self, name: str) -> str | None:
        """The name of a tensor of a as it is compared; None where it has not the prefix: it was not wrapped."""
        return _stripped(self._cleaned(name), self.prefix_a)

    def name_b(self, name: str) -> str | None:
        """The same for b."""
        return _stripped(self._cleaned(name), self.prefix_b)

    def _cleaned(self, name: str) -> str:
        return without_inner_wrappers(name) if self.inner else name


AS_THEY_ARE = Renaming()


def find_renaming(a: Mapping[str, Shape], b: Mapping[str, Shape]) -> Renaming:
    """The one change of names that makes most of `a` and `b` (names with shapes) agree; none where there is none, or
    several. Names that agree as they are stay."""
    smaller = min(len(a), len(b))
    if not smaller or _num_agreeing(a, b, "", "") == smaller:
        return AS_THEY_ARE
    best, num_best = _best(a, b, inner=False)
    if num_best < smaller and (cleaned := _cleaned(a, b)) is not None:
        inner_best, num_inner = _best(*cleaned, inner=True)
        if num_inner > num_best:
            return inner_best
    return best


def without_inner_wrappers(name: str) -> str:
    """`layers.0._orig_mod.w` is `layers.0.w`."""
    if "_" not in name:
        return name
    return ".".join(word for word in name.split(".") if word not in _INNER_WRAPPERS)


def _best(a: Mapping[str, Shape], b: Mapping[str, Shape], inner: bool) -> tuple[Renaming, int]:
    """The best choice and how many names agree then; the names as they are (0) where it could be another."""
    votes: dict[tuple[str, str], int] = {}
    for prefix_a in _wrapper_prefixes(a):
        for prefix_b in _wrapper_prefixes(b):
            choice = _shortest(prefix_a, prefix_b)
            if choice not in votes:
                votes[choice] = _num_agreeing(a, b, *choice)
    for prefix, num in _part_prefixes(a, b).items():
        votes[prefix, ""] = max(votes.get((prefix, ""), 0), num)
    for prefix, num in _part_prefixes(b, a).items():
        votes["", prefix] = max(votes.get(("", prefix), 0), num)
    ranked = sorted(votes.items(), key=lambda item: (-item[1], len(item[0][0]) + len(item[0][1]), item[0]))
    choice, num = ranked[0]
    rival = ranked[1][1] if len(ranked) > 1 else 0
    if num < _ENOUGH * min(len(a), len(b)) or rival > _RIVAL * num or not num:
        return AS_THEY_ARE, 0
    return Renaming(*choice, inner), num


def _cleaned(a: Mapping[str, Shape], b: Mapping[str, Shape]) -> tuple[dict[str, Shape], dict[str, Shape]] | None:
    """Both without wrappers' words inside the names; None where there are none, or two names become one."""
    clean_a = {without_inner_wrappers(name): shape for name, shape in a.items()}
    clean_b = {without_inner_wrappers(name): shape for name, shape in b.items()}
    if len(clean_a) != len(a) or len(clean_b) != len(b):
        return None
    return None if clean_a.keys() == a.keys() and clean_b.keys() == b.keys() else (clean_a, clean_b)


def _num_agreeing(a: Mapping[str, Shape], b: Mapping[str, Shape], prefix_a: str, prefix_b: str) -> int:
    """How many names of a have a tensor of the same shape in b once the prefixes are off."""
    begin = len(prefix_a)
    return sum(
        b.get(prefix_b + name[begin:]) == shape for name, shape in a.items() if not begin or name.startswith(prefix_a)
    )


def _wrapper_prefixes(names: Iterable[str]) -> list[str]:
    """The chains of wrappers' words that at least half of the names begin with, "" among them."""
    chains: Counter[str] = Counter()
    num_names = 0
    for name in names:
        num_names += 1
        words = name.split(".")
        chain = ""
        for word in words[: min(_MAX_CHAIN, len(words) - 1)]:
            if word not in _WRAPPERS:
                break
            chain += f"{word}."
            chains[chain] += 1
    return ["", *(chain for chain, num in chains.items() if 2 * num >= num_names)]


def _shortest(prefix_a: str, prefix_b: str) -> tuple[str, str]:
    """`model.model.` against `model.` is `model.` against nothing: what both end with changes no pair."""
    words_a, words_b = prefix_a.split("."), prefix_b.split(".")
    while len(words_a) > 1 and len(words_b) > 1 and words_a[-2] == words_b[-2]:
        del words_a[-2], words_b[-2]
    return ".".join(words_a), ".".join(words_b)


def _part_prefixes(whole: Mapping[str, Shape], part: Mapping[str, Shape]) -> Counter[str]:
    """For each way to see `part` as a part of `whole`: how many names and shapes agree then."""
    votes: Counter[str] = Counter()
    for name, shape in whole.items():
        dot = name.find(".")
        for _ in range(_MAX_WORDS):
            if dot < 0:
                break
            if part.get(name[dot + 1 :]) == shape:
                votes[name[: dot + 1]] += 1
            dot = name.find(".", dot + 1)
    return votes


def _stripped(name: str, prefix: str) -> str | None:
    return name[len(prefix) :] if name.startswith(prefix) else None
