"""The body of a tenant, a project, a user or a key, from options or from a file."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from pydantic.fields import FieldInfo

from vestry.admin.bodies import DOCUMENT_BYTES
from vestry.commands.unusable import Unusable
from vestry.configuration.strict_yaml import Document, parse
from vestry.settings.section import Section, about

LARGEST_FILE = 4 * DOCUMENT_BYTES
F = typing.TypeVar("F", bound=Callable[..., Any])

from_file = click.option(
    "-f",
    "--file",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Read the whole of it from this file, YAML or JSON; `-` is standard input.",
)


def options_of(form: type[Section]) -> Callable[[F], F]:
    """An option for every field of a form, by the field's name; those of lists are in the singular, and repeated."""

    def give(function: F) -> F:
        said = about(form)
        for name, field in reversed(form.model_fields.items()):
            function = _option(name, field, said.get(name, ""))(function)
        unset = click.option(
            "--unset",
            multiple=True,
            type=click.Choice([name for name, field in form.model_fields.items() if not field.is_required()]),
            help="Give this its default again; may be repeated.",
        )
        return unset(function)

    return give


def _option(name: str, field: FieldInfo, said: str) -> Callable[[F], F]:
    kind = _kind(field)
    flag = "--" + name.replace("_", "-")
    if not said and issubclass(kind, Section):  # of a section its own docstring; what Python says of `int` is no help
        said = kind.__doc__ or ""
    help_ = " ".join(said.split())
    if kind is bool:
        return click.option(f"{flag}/--not-{name.replace('_', '-')}", name, default=None, help=help_)
    if kind is tuple:
        return click.option(flag.removesuffix("s"), name, multiple=True, help=f"{help_} May be repeated.")
    if kind is int:
        return click.option(flag, name, type=int, metavar="N", help=help_)
    if kind is str:
        return click.option(flag, name, help=help_)
    return click.option(flag, name, metavar="YAML", callback=_read, help=f"{help_} As YAML: {{default: hashed}}.")


def _kind(field: FieldInfo) -> Any:
    """`bool`, `int`, `str`, `tuple`, or the class of a section."""
    kind: Any = field.annotation
    while typing.get_origin(kind) in {typing.Annotated, typing.Union, types.UnionType}:
        kind = next(each for each in typing.get_args(kind) if each is not type(None))
    return typing.get_origin(kind) or kind


def _read(_context: click.Context, _option: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    document = parse(value)
    if document.flaws:
        raise click.BadParameter(f"{document.flaws[0].what}. {document.flaws[0].mend}")
    return document.value


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those options that were given, as parts of a body."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in options.items()
        if value is not None and value != ()
    }


def composed(before: Mapping[str, Any], options: Mapping[str, Any], unset: tuple[str, ...]) -> dict[str, Any]:
    """What is there, changed by the options."""
    return {**{name: value for name, value in before.items() if name not in unset}, **given(options)}


def body_of(file: Path) -> dict[str, Any]:
    """The body in a file. Raises Unusable, which names the line."""
    document = document_of(file)
    if document.flaws:
        raise Unusable("\n".join(f"{file}:{flaw.line}: {flaw.what}. {flaw.mend}" for flaw in document.flaws))
    if document.value is not None and not isinstance(document.value, dict):
        raise Unusable(f"{file}:1: this is not a mapping. Write `name: value` lines")
    return document.value or {}


def document_of(file: Path) -> Document:
    """What a file of one document says. Raises Unusable where it cannot be read."""
    return parse(text_of(file, LARGEST_FILE))


def text_of(file: Path, largest: int) -> str:
    """The text of a file, or of standard input. Raises Unusable."""
    try:
        with click.open_file(str(file), "rb") as stream:
            content: bytes = stream.read(largest + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a path"
        raise Unusable(f"{file} cannot be read ({why}).") from None
    if len(content) > largest:
        raise Unusable(f"{file} is larger than {largest} bytes.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Unusable(f"{file}:{line}: this is not UTF-8 text. Save it as UTF-8") from None
