"""Type hints, taken apart: what stands behind their names, and what classes say of their members."""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")

_QUALIFIERS = (typing.Annotated, typing.Final, typing.Required, typing.NotRequired)


def remembering(function: Callable[..., _T]) -> Callable[..., _T]:
    """Remember what a function has returned, for arguments that can be hashed: Annotated hints may not be."""
    cached = functools.lru_cache(maxsize=4096)(function)

    @functools.wraps(function)
    def remembered(*arguments: Any) -> _T:
        try:
            return cached(*arguments)
        except TypeError:
            return function(*arguments)

    return remembered


def resolved_hint(annotation: Any, module_names: Mapping[str, Any], local_names: Mapping[str, Any]) -> Any:
    """Return the type that an annotation, a string or not, stands for; Any where that cannot be told."""
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, dict(module_names), dict(local_names))["it"]
    except Exception:  # noqa: BLE001 - evaluates what users wrote, with names that only type checkers see
        return Any


def bare_hint(hint: Any) -> Any:
    """Return a hint without what tells nothing of the value's shape: aliases, new types, annotations.

    An alias that cannot be resolved, or that is made of itself, says nothing: it is Any.
    """
    while True:
        origin = typing.get_origin(hint)
        if isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif origin in _QUALIFIERS:
            hint = typing.get_args(hint)[0]
        elif _is_alias(hint) or _is_alias(origin):
            hint = _aliased(hint)
        else:
            return hint


def member_hints(cls: type, arguments: tuple[Any, ...] = ()) -> dict[str, Any]:
    """Return what the members of a class are said to be, those of its bases included.

    ``arguments`` stand for the type variables of a generic class; what nothing stands for stays a variable.
    """
    known = _variables(cls, arguments)
    # A TypedDict has the members of its bases as its own, but not their variables.
    lineage = tuple(reversed(known)) if typing.is_typeddict(cls) else cls.__mro__
    return {
        name: _filled(hint, known.get(_owner(name, lineage), {})) for name, hint in _class_hints(cls).items()
    }


def _is_alias(hint: Any) -> bool:
    # By name, as typing has it from Python 3.12 on, and typing_extensions one of its own.
    return type(hint).__name__ == "TypeAliasType"


def _aliased(hint: Any) -> Any:
    """Return what an alias, or a generic one with arguments, stands for."""
    alias = hint if _is_alias(hint) else typing.get_origin(hint)
    try:
        value = alias.__value__
        if _comes_in(alias, value, set()):
            return Any
        return _filled(value, dict(zip(alias.__type_params__, typing.get_args(hint), strict=False)))
    except Exception:  # noqa: BLE001 - evaluates what users wrote, with names that only type checkers see
        return Any


def _comes_in(alias: Any, hint: Any, seen: set[int]) -> bool:
    """Tell whether an alias comes in a hint, or in what other aliases in it stand for."""
    parts = (hint, typing.get_origin(hint))
    if any(part is alias for part in parts):
        return True
    within = list(typing.get_args(hint))
    for other in filter(_is_alias, parts):
        if id(other) not in seen:
            seen.add(id(other))
            within.append(other.__value__)
    return any(_comes_in(alias, part, seen) for part in within)


def _filled(hint: Any, known: Mapping[Any, Any]) -> Any:
    """Return a hint with what is known to stand for its type variables; Any where it takes none of that."""
    if isinstance(hint, TypeVar):
        return known.get(hint, hint)
    variables = () if isinstance(hint, type) else getattr(hint, "__parameters__", ())
    if not variables or not known:
        return hint
    try:
        return hint[tuple(known.get(variable, variable) for variable in variables)]
    except TypeError:
        return Any


def _variables(cls: type, arguments: tuple[Any, ...]) -> dict[type, dict[Any, Any]]:
    """Return what stands for the type variables of a class, and of each class that it is made of."""
    known = dict(zip(getattr(cls, "__parameters__", ()), arguments, strict=False))
    found = {cls: known}
    for base in vars(cls).get("__orig_bases__", cls.__bases__):
        origin = typing.get_origin(base) or base
        if isinstance(origin, type):  # `TypedDict` and `NamedTuple` are none.
            found |= _variables(origin, tuple(_filled(hint, known) for hint in typing.get_args(base)))
    return found


def _owner(name: str, lineage: tuple[type, ...]) -> type:
    """Return the class whose annotation a member's is."""
    return next((base for base in lineage if name in inspect.get_annotations(base)), object)


def _class_hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except Exception:  # noqa: BLE001 - one name that cannot be resolved must not cost the hints of the others
        hints: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            names = getattr(sys.modules.get(base.__module__), "__dict__", {})
            own = {variable.__name__: variable for variable in getattr(base, "__type_params__", ())}
            for name, annotation in inspect.get_annotations(base).items():
                hints[name] = resolved_hint(annotation, names, {**vars(base), **own, base.__name__: base})
        return hints
