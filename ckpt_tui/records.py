"""`dataclass` that costs a tenth to define: what starts in a blink has a hundred of them.

The standard library compiles six methods for each class when it is defined, 0.6 ms of every start, for classes that
often are never made. Here `__init__` is compiled when many instances were made (until then a loop does its work:
compiling costs what a hundred turns of the loop do), and the rest are shared functions over an `attrgetter`. What comes
out is a dataclass for `fields`, `replace`, `asdict` and `is_dataclass`.

Only what this project uses is there: positional fields with defaults, `frozen`, `slots`, `eq`, `repr`, and of a field
`default_factory`, `repr`, `compare` and `hash`. `tests/unit/test_records.py` holds every class against the library's.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:
    import dataclasses
    import inspect
    from operator import attrgetter

    _A_FIELD = dataclasses.fields(dataclasses.make_dataclass("_Sample", ["x"]))[0]._field_type
    _MISSING = dataclasses.MISSING
    _set = object.__setattr__
    _NUM_BEFORE_COMPILED = 50

    def dataclass(cls=None, /, *, frozen=False, slots=False, eq=True, repr=True):  # noqa: A002 - as the library's
        """As `dataclasses.dataclass`."""
        if cls is not None:
            return _made(cls, frozen, slots, eq, repr)
        return lambda cls: _made(cls, frozen, slots, eq, repr)

    def _made(cls, frozen, slots, eq, has_repr):
        own = _own_fields(cls)
        inherited = {}
        for base in reversed(cls.__mro__[1:]):
            inherited.update(base.__dict__.get("__dataclass_fields__", {}))
        every = {**inherited, **own}
        if slots:
            cls = _with_slots(cls, own)
        cls.__dataclass_fields__ = every
        cls.__match_args__ = tuple(every)
        get = _getter([name for name, one in every.items() if one.compare])
        own_dict = cls.__dict__
        if "__init__" not in own_dict:
            cls.__init__ = _init_until_compiled(cls, every, frozen)
        if has_repr and "__repr__" not in own_dict:
            cls.__repr__ = _repr
        if eq and "__eq__" not in own_dict:
            cls.__eq__ = lambda self, other: get(self) == get(other) if other.__class__ is cls else NotImplemented
            if not frozen:
                cls.__hash__ = None
            elif own_dict.get("__hash__") is None:
                hashed = [name for name, one in every.items() if (one.compare if one.hash is None else one.hash)]
                get_hashed = _getter(hashed)
                cls.__hash__ = lambda self: hash(get_hashed(self))
        if frozen:
            cls.__setattr__, cls.__delattr__ = _refuse_set, _refuse_delete
            if slots:
                cls.__getstate__, cls.__setstate__ = _get_state, _set_state
        return cls

    def _getter(names):
        """The values of these attributes, as a tuple."""
        if len(names) > 1:
            return attrgetter(*names)
        return (lambda self: (getattr(self, names[0]),)) if names else lambda _: ()

    def _own_fields(cls):
        found = {}
        for name, annotation in inspect.get_annotations(cls).items():
            if "ClassVar" in str(annotation):
                continue
            default = cls.__dict__.get(name, _MISSING)
            if isinstance(default, dataclasses.Field):
                one = default
                if one.default is _MISSING:
                    delattr(cls, name)
                else:
                    setattr(cls, name, one.default)
            else:
                one = dataclasses.field(default=default)
                if one.default.__class__.__hash__ is None:
                    raise ValueError(f"{cls.__name__}.{name}: a default that can change; give a default_factory")
            one.name, one.type, one._field_type, one.kw_only = name, annotation, _A_FIELD, False
            found[name] = one
        return found

    def _with_slots(cls, own):
        """The class again, with `__slots__`: they cannot be added to one that exists."""
        taken = {name for base in cls.__mro__[1:-1] for name in getattr(base, "__slots__", ())}
        body = {name: value for name, value in cls.__dict__.items() if name not in own}
        body.pop("__dict__", None)
        body.pop("__weakref__", None)
        body["__slots__"] = tuple(name for name in own if name not in taken)
        again = type(cls)(cls.__name__, cls.__bases__, body)
        again.__qualname__ = cls.__qualname__
        return again

    def _init_until_compiled(cls, every, frozen):
        names = tuple(name for name, one in every.items() if one.init)
        allowed = frozenset(names)
        required = frozenset(name for name in names if not _has_default(every[name]))
        has_post_init = hasattr(cls, "__post_init__")
        num_made = 0

        def init(self, *args, **kwargs):
            nonlocal num_made
            num_made += 1
            given = dict(zip(names, args, strict=False))
            is_right = len(args) <= len(names) and given.keys().isdisjoint(kwargs)
            given.update(kwargs)
            if num_made > _NUM_BEFORE_COMPILED or not (is_right and required <= given.keys() <= allowed):
                # Of a wrong call, too: what is wrong with it is Python's to say.
                cls.__init__ = compiled = _compiled_init(every, frozen, has_post_init)
                compiled.__qualname__ = f"{cls.__qualname__}.__init__"
                compiled(self, *args, **kwargs)
                return
            for name, one in every.items():
                if name in given:
                    value = given[name]
                else:
                    value = one.default if one.default_factory is _MISSING else one.default_factory()
                _set(self, name, value)
            if has_post_init:
                self.__post_init__()

        return init

    def _has_default(one):
        return one.default is not _MISSING or one.default_factory is not _MISSING

    def _compiled_init(every, frozen, has_post_init):
        known = {"_set": _set, "_missing": _MISSING}
        parameters, body = ["self"], []
        for name, one in every.items():
            value = name
            if one.default_factory is not _MISSING:
                known[f"_make_{name}"] = one.default_factory
                value = f"_make_{name}() if {name} is _missing else {name}"
                parameters.append(f"{name}=_missing")
            elif one.default is not _MISSING:
                known[f"_default_{name}"] = one.default
                parameters.append(f"{name}=_default_{name}")
            else:
                parameters.append(name)
            if not one.init:
                parameters.pop()
                value = f"_make_{name}()" if one.default_factory is not _MISSING else f"_default_{name}"
            body.append(f" _set(self, {name!r}, {value})" if frozen else f" self.{name} = {value}")
        if has_post_init:
            body.append(" self.__post_init__()")
        exec("def __init__(" + ", ".join(parameters) + "):\n" + ("\n".join(body) or " pass"), known)
        return known["__init__"]

    def _repr(self):
        shown = (f"{name}={getattr(self, name)!r}" for name, one in self.__dataclass_fields__.items() if one.repr)
        return f"{self.__class__.__qualname__}({', '.join(shown)})"

    def _refuse_set(self, name, value):
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

    def _refuse_delete(self, name):
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")

    def _get_state(self):
        return [getattr(self, name) for name in self.__dataclass_fields__]

    def _set_state(self, state):
        for name, value in zip(self.__dataclass_fields__, state, strict=True):
            _set(self, name, value)
