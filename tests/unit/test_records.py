"""Our dataclasses behave as the standard library's, which are the judge of every case here."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from typing import Any, ClassVar

import pytest

from ckpt_tui import records


def _classes(dataclass: Any) -> dict[str, type]:
    @dataclass(frozen=True, slots=True)
    class Frozen:
        """Two fields have defaults."""

        a: int
        b: tuple[int, ...] = ()
        c: dict[str, int] = dataclasses.field(default_factory=dict)
        KIND: ClassVar[str] = "kind"

        @property
        def double(self) -> int:
            return self.a * 2

    @dataclass(slots=True)
    class Mutable:
        a: int
        b: list[int] = dataclasses.field(default_factory=list)

    @dataclass(frozen=True, slots=True)
    class Child(Frozen):
        d: str = "d"

    @dataclass(slots=True, eq=False)
    class ByIdentity:
        a: int = 0

    @dataclass(frozen=True, slots=True)
    class One:
        a: int = 5

    @dataclass(frozen=True, slots=True, repr=False)
    class Quiet:
        a: int = 5

        def __repr__(self) -> str:
            return "quiet"

    return {one.__name__: one for one in (Frozen, Mutable, Child, ByIdentity, One, Quiet)}


OURS, THEIRS = _classes(records.dataclass), _classes(dataclasses.dataclass)


def _said(classes: dict[str, type], act: Any) -> str:
    try:
        return repr(act(classes))
    except Exception as error:  # noqa: BLE001 - which one, is what is compared
        return type(error).__name__


@pytest.mark.parametrize(
    "act",
    [
        lambda c: c["Frozen"](1),
        lambda c: c["Frozen"](a=1, b=(2,), c={"x": 1}),
        lambda c: c["Frozen"](),
        lambda c: c["Frozen"](1, (), {}, 4),
        lambda c: c["Frozen"](1, nonsense=2),
        lambda c: c["Frozen"](1).c is c["Frozen"](1).c,
        lambda c: c["Frozen"](2).double,
        lambda c: setattr(c["Frozen"](1), "a", 2),
        lambda c: delattr(c["Frozen"](1), "a"),
        lambda c: c["Frozen"](1) == c["Frozen"](1),
        lambda c: c["Frozen"](1) == c["Frozen"](2),
        lambda c: c["Frozen"](1) == (1, (), {}),
        lambda c: c["Frozen"](1) == c["Child"](1),
        lambda c: hash(c["Frozen"](1)),
        lambda c: hash(c["One"](1)) == hash(c["One"](1)),
        lambda c: len({c["One"](1), c["One"](1), c["One"](2)}),
        lambda c: c["One"](float("nan")) == c["One"](float("nan")),
        lambda c: hasattr(c["Frozen"](1), "__dict__"),
        lambda c: c["Child"](1, d="e"),
        lambda c: c["Child"].__slots__,
        lambda c: c["Frozen"].__slots__,
        lambda c: c["Frozen"].KIND,
        lambda c: c["Mutable"](1),
        lambda c: c["Mutable"](1) == c["Mutable"](1, []),
        lambda c: hash(c["Mutable"](1)),
        lambda c: setattr(c["Mutable"](1), "a", 2),
        lambda c: setattr(c["Mutable"](1), "other", 2),
        lambda c: c["ByIdentity"]() == c["ByIdentity"](),
        lambda c: len({c["ByIdentity"](), c["ByIdentity"]()}),
        lambda c: c["Quiet"](),
        lambda c: dataclasses.replace(c["Frozen"](1), b=(3,)),
        lambda c: dataclasses.replace(c["Frozen"](1), z=(3,)),
        lambda c: dataclasses.asdict(c["Frozen"](1, c={"x": 2})),
        lambda c: [(one.name, one.type) for one in dataclasses.fields(c["Child"])],
        lambda c: dataclasses.is_dataclass(c["One"]),
        lambda c: copy.copy(c["Frozen"](1)),
        lambda c: copy.deepcopy(c["Frozen"](1, c={"x": 2})),
        lambda c: c["Frozen"].__match_args__,
        lambda c: c["Frozen"].__qualname__,
        lambda c: c["Frozen"].__doc__,
    ],
)
@pytest.mark.parametrize("is_compiled", [False, True], ids=["first ones", "many"])
def test_as_the_standard_library(act: Any, is_compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_NUM_BEFORE_COMPILED", 0 if is_compiled else 10**9)
    assert _said(OURS, act) == _said(THEIRS, act)


@records.dataclass(frozen=True, slots=True)
class Sent:
    a: int
    b: str = "b"


def test_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(Sent(1))) == Sent(1)


def test_a_default_that_can_change_is_refused() -> None:
    with pytest.raises(ValueError, match="Wrong"):

        @records.dataclass(slots=True)
        class Wrong:
            a: list[int] = []  # noqa: RUF012 - this is what is refused


EVERY_CLASS = """
import copy, dataclasses, importlib, inspect, pkgutil
import ckpt_tui
from ckpt_tui import records

twins = {}
made = records._made

def both(cls, frozen, slots, eq, has_repr):
    body = {name: copy.copy(value) if isinstance(value, dataclasses.Field) else value
            for name, value in cls.__dict__.items() if name not in ("__dict__", "__weakref__")}
    bases = tuple(twins.get(base, base) for base in cls.__bases__)
    make = dataclasses.dataclass(frozen=frozen, slots=slots, eq=eq, repr=has_repr)
    theirs = make(type(cls)(cls.__name__, bases, body))
    ours = made(cls, frozen, slots, eq, has_repr)
    twins[ours] = theirs
    return ours

def told(cls, act):
    try:
        return act(cls)
    except Exception as error:
        return type(error).__name__

FIELD = ("name", "type", "default", "default_factory", "init", "repr", "hash", "compare", "kw_only", "metadata")
names = lambda cls: [one.name for one in dataclasses.fields(cls) if one.init]
least = lambda cls: [one.name for one in dataclasses.fields(cls)
                     if one.default is one.default_factory is dataclasses.MISSING]
full = lambda cls: cls(*names(cls))
many = lambda cls: [full(cls) for _ in range(records._NUM_BEFORE_COMPILED + 1)]
acts = dict(
    fields=lambda c: [tuple(getattr(one, name) for name in FIELD) for one in dataclasses.fields(c)],
    match_args=lambda c: c.__match_args__,
    slots=lambda c: c.__slots__,
    has_dict=lambda c: hasattr(full(c), "__dict__"),
    repr=lambda c: repr(full(c)).split(" object at ")[0],
    least=lambda c: dataclasses.astuple(c(*least(c))),
    by_name=lambda c: full(c) == c(**{name: name for name in names(c)}),
    too_few=lambda c: bool(c(*least(c)[1:])) if least(c) else None,
    too_many=lambda c: c(*names(c), 1),
    unknown=lambda c: c(*names(c), nonsense=1),
    equal=lambda c: full(c) == full(c),
    each_counts=lambda c: [full(c) == dataclasses.replace(full(c), **{name: 0}) for name in names(c)],
    hash=lambda c: hash(full(c)) if c.__hash__ is not object.__hash__ else "identity",
    hash_without=lambda c: [(name, told(c, lambda c: bool(hash(dataclasses.replace(full(c), **{name: []})))))
                            for name in names(c)],
    set=lambda c: setattr(full(c), c.__match_args__[0], 1),
    # The standard library's frozen ones with slots raise TypeError there, by a mistake of its own.
    set_other=lambda c: told(c, lambda c: setattr(full(c), "nonsense", 1)) is None,
    delete=lambda c: delattr(full(c), c.__match_args__[0]),
    asdict=lambda c: dataclasses.asdict(full(c)),
    replaced=lambda c: dataclasses.astuple(dataclasses.replace(full(c), **{names(c)[-1]: 1})),
    replaced_wrong=lambda c: dataclasses.replace(full(c), nonsense=1),
    copied=lambda c: [copy.copy(full(c)) == full(c), copy.deepcopy(full(c)) == full(c)],
    # Last, and all of them again: the first instances are made by a loop, which knows no signature, and is fit for few.
    parameters=lambda c: (many(c), list(inspect.signature(c).parameters))[1],
)
records._made = both
for module in pkgutil.walk_packages(ckpt_tui.__path__, "ckpt_tui."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for ours, theirs in twins.items():
    for name, act in [*acts.items(), *acts.items()]:
        one, other = told(ours, act), told(theirs, act)
        if one != other:
            print(f"{ours.__module__}.{ours.__qualname__} {name}: {one!r} is not {other!r}")
print(len(twins), "compared")
"""


def test_every_class_that_uses_it_is_as_the_standard_library_makes_it() -> None:
    done = subprocess.run([sys.executable, "-c", EVERY_CLASS], capture_output=True, text=True, check=True, timeout=300)
    *different, last = done.stdout.splitlines()
    assert different == []
    assert int(last.split()[0]) > 100


def test_the_first_picture_defines_no_class_the_slow_way() -> None:
    """Each of the standard library's costs 0.6 ms of every start."""
    code = (
        "import dataclasses; made = []; slow = dataclasses._process_class\n"
        "def note(cls, *rest): made.append(f'{cls.__module__}.{cls.__qualname__}'); return slow(cls, *rest)\n"
        "dataclasses._process_class = note\n"
        "import ckpt_tui.commands.watch, ckpt_tui.tui.app, ckpt_tui.tui.screens.overview, ckpt_tui.cli\n"
        "print(*(one for one in made if one.startswith('ckpt_tui')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split() == []
