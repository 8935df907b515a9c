"""What stands in a field of the settings: a section, a table of sections by name, a list of sections, or a value."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from vestry.settings import Section


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section, for `Tls`, `Tls | None`."""
    return _only_section(_arms(field.annotation))


def table_of(field: FieldInfo) -> type[Section] | None:
    """The section that every entry is, for `dict[Label, Tenant]`."""
    return _only_section(get_args(field.annotation)) if get_origin(field.annotation) is dict else None


def items_of(field: FieldInfo) -> type[Section] | None:
    """The section that every item is, for `tuple[Replica, ...]`."""
    return _only_section(get_args(field.annotation)) if get_origin(field.annotation) is tuple else None


def optional(field: FieldInfo) -> bool:
    """Whether the field may be null."""
    return NoneType in _arms(field.annotation)


def _arms(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)


def _only_section(kinds: tuple[Any, ...]) -> type[Section] | None:
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
