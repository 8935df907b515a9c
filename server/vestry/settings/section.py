"""What all sections of the settings are made of: the closed, frozen base, and values with their bounds."""

from __future__ import annotations

import ast
import inspect
import ipaddress
import re
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from vestry import addresses
from vestry.addresses import Address, unmapped

NAME = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$"
LABEL = r"^[a-z0-9][a-z0-9-]{0,62}$"
ORIGIN = r"^[a-z0-9][a-z0-9./-]{0,62}$"
COMMANDS = r"^([a-z0-9][a-z0-9.-]{0,58}-)?cli$"
HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.(?!-)[A-Za-z0-9_-]{1,63})*\.?")
NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
UNSHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
CARRIER_NAT = ipaddress.ip_network("100.64.0.0/10")


def address_of(host: str) -> Address | None:
    """The IP address that a text is, with or without the brackets of a URL; None for a name."""
    try:
        return ipaddress.ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    except ValueError:
        return None


def is_host_name(text: str) -> bool:
    """Whether this is a name, and none that resolvers read as an address, such as `127.1`."""
    last = text.rstrip(".").rpartition(".")[2]
    return len(text) <= 253 and HOST.fullmatch(text) is not None and NUMBER.fullmatch(last) is None


def is_private(address: Address) -> bool:
    """Whether this is a loopback or private address (RFC 1918, RFC 4193, RFC 6598), as engines must have.

    Link-local addresses are not: clouds answer there with their own secrets.
    """
    plain = unmapped(address)
    if plain.is_loopback:
        return True
    if plain.is_link_local or plain.is_unspecified or plain.is_multicast or plain.is_reserved:
        return False
    return plain.is_private or (plain.version == 4 and plain in CARRIER_NAT)


def is_this_machine(host: str) -> bool:
    """Whether this is the machine itself: `localhost`, or a loopback address."""
    address = address_of(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def split_url(value: str) -> tuple[SplitResult, str | None, int | None]:
    """The parts of a URL, its host and its port; nothing in any of them for what is no URL, as with a space in it."""
    written = value.isascii() and value.isprintable() and " " not in value
    try:
        parts = urlsplit(value if written else "")
        host, port = parts.hostname, parts.port
    except ValueError:
        return urlsplit(""), None, None
    return parts, host, port


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError if a name is there twice."""
    if twice := repeated(names):
        raise ValueError(f"two of them are named `{twice}`: give each a name of its own")


def repeated(names: Sequence[str]) -> str | None:
    """The first of these that is there more than once."""
    return next((name for name in names if names.count(name) > 1), None)


def check_host(value: str) -> str:
    """The value, if it is an IP address or a host name. Raises ValueError."""
    if value.startswith("["):
        raise ValueError("write the address without brackets")
    if address_of(value) is None and not is_host_name(value):
        raise ValueError("this is neither an IP address nor a host name")
    return value


def network(value: str) -> str:
    """An address or a network, written as a network. Raises ValueError."""
    try:
        return str(addresses.network(value))
    except ValueError:
        raise ValueError("this is neither an address nor a network such as 10.0.0.0/8") from None


def _trimmed(value: str) -> str:
    if value != value.strip() or not value.isprintable():
        raise ValueError("write printable characters, with no space at either end")
    return value


def _shown(value: str) -> str:
    if UNSHOWN.search(value):
        raise ValueError("leave out control characters, and those that turn the direction of text")
    return value


Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Name = Annotated[str, Field(pattern=NAME)]
Label = Annotated[str, Field(pattern=LABEL)]
Host = Annotated[str, AfterValidator(check_host)]
Subject = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_trimmed)]
Remark = Annotated[str, Field(max_length=256), AfterValidator(_shown)]
"""What somebody writes for others to read: it is shown in terminals, and exported to files that are read again."""
Source = Annotated[str, Field(max_length=64), AfterValidator(network)]


class Section(BaseModel):
    """A part of the settings: closed, frozen, strict about types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema of the section, with what is said of each field."""
        made = handler(core)
        properties = handler.resolve_ref_schema(made)["properties"]
        for name, said in about(cls).items():
            properties[name] = {"description": said, **properties[name]}
        return made


def about(section: type[Section]) -> dict[str, str]:
    """What the docstrings below a section's fields say of them, by the field's name.

    pydantic would read them for every class as it is made (`use_attribute_docstrings`), which took a third of the time
    in which a command reads its settings; but they are asked for by schemas, by helps, and by faults' mends alone.
    """
    found: dict[str, str] = {}
    for each in reversed(section.__mro__):
        if issubclass(each, Section) and each is not Section:
            found |= _said(each.__module__).get(each.__qualname__, {})
    return {name: said for name, said in found.items() if name in section.model_fields}


@lru_cache(maxsize=64)
def _said(module: str) -> dict[str, dict[str, str]]:
    """The docstrings below the fields of a module's classes; none where there is no source."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):
        return {}
    return {each.name: dict(_below(each.body)) for each in tree.body if isinstance(each, ast.ClassDef)}


def _below(body: Sequence[ast.stmt]) -> Iterator[tuple[str, str]]:
    for pair in pairwise(body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as said)):
                yield name, inspect.cleandoc(said)
