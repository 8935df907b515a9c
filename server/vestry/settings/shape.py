"""What stands in a field of the settings: a section, a table of sections by name, a list of sections, or a value.

The sections of a list may be of several kinds, told apart by their field `kind`.
"""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from msgspec import Struct
from pydantic.fields import FieldInfo

from vestry.settings.section import Section, about


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section, for `Tls`, `Tls | None`."""
    return _only_section(_arms(field.annotation))


def table_of(field: FieldInfo) -> type[Section] | None:
    """The section that every entry is, for `dict[Label, Tenant]`."""
    return _only_section(get_args(field.annotation)) if get_origin(field.annotation) is dict else None


def items_of(field: FieldInfo) -> type[Section] | None:
    """The section that every item is, for `tuple[Replica, ...]`."""
    return _only_section(get_args(field.annotation)) if get_origin(field.annotation) is tuple else None


def kinds_of(field: FieldInfo) -> dict[str, type[Section]]:
    """The sections that an item may be, by their `kind`, for `tuple[Copy, ...]`; empty for any other field."""
    items = get_args(field.annotation)[:1] if get_origin(field.annotation) is tuple else ()
    if not items or get_origin(items[0]) is not Annotated:
        return {}
    arms = [each for each in _arms(get_args(items[0])[0]) if isinstance(each, type) and issubclass(each, Section)]
    return {get_args(each.model_fields["kind"].annotation)[0]: each for each in arms}


class Place(Struct, frozen=True):
    """A place in the settings. `field` is None where no setting is; `names` are those that could stand there."""

    field: FieldInfo | None
    names: list[str]
    trail: tuple[int | str, ...]
    """As in the file."""
    about: str = ""
    """What the setting is."""


def place_of(root: type[Section], loc: tuple[int | str, ...]) -> Place:
    """From the `loc` of one of pydantic's errors, which has the kind behind the index of an item of several kinds."""
    section: type[Section] | None = root
    field: FieldInfo | None = None
    names: list[str] = []
    said = ""
    trail: list[int | str] = []
    steps = list(loc)
    while steps and section is not None:
        trail.append(steps.pop(0))
        field, names = section.model_fields.get(str(trail[-1])), list(section.model_fields)
        if field is None:
            return Place(None, names, (*trail, *steps))
        said = about(section).get(str(trail[-1]), "")
        kinds, table = kinds_of(field), table_of(field) or items_of(field)
        section = table or section_of(field)
        if (table is not None or kinds) and steps:
            trail.append(steps.pop(0))
        if kinds and steps:
            section = kinds.get(str(steps.pop(0)))
    inner = list(section.model_fields) if section is not None and not steps else names
    return Place(field, inner, (*trail, *steps), said)


def optional(field: FieldInfo) -> bool:
    """Whether the field may be null."""
    return NoneType in _arms(field.annotation)


def _arms(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)


def _only_section(kinds: tuple[Any, ...]) -> type[Section] | None:
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
