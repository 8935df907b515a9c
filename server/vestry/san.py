"""Subject alternative names of certificates (RFC 5280, section 4.2.1.6): one written form, and patterns over them.

A name is written `DNS:host`, `URI:scheme://host/path`, `email:local@host` or `IP:address`. Hosts and schemes are in
lower case, as they mean the same in any case. What cannot name one holder is no name here: wildcards, paths with `.` or
`..` for a step, characters that are not plain ASCII, more than 506 of them.

In a pattern `*` stands for one or more characters of one part of a name, and never for what parts it:

- of a host, in each kind of name: letters, digits, `-` and `_`, but no `.`;
- of a path: unreserved characters, `.` among them, but no `/`, and no `%`, which could hide one;
- of a URI without `//`, such as `urn:example:*`: the same, but no `:` either;
- of the part of an email address before `@`: whatever may stand there.

A part takes one `*` at most, so that no name, whoever chose it, takes long to compare. `IP:` takes an address or a
network instead.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

MOST = 512
KINDS = ("DNS", "URI", "email", "IP")
HOST = "a-z0-9_-"
PATH = r"A-Za-z0-9._~!$&'()+,;=:@-"
OPAQUE = r"A-Za-z0-9._~!$&'()+,;=@-"
LOCAL = r"A-Za-z0-9.!#$%&'+/=?^_`{|}~-"
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
STEPS = re.compile(r"/\.{1,2}(/|$)")

Fits = Callable[[str], bool]


def normal(kind: str, value: str) -> str | None:
    """A name in its written form; None for what is none."""
    if not 0 < len(value) <= MOST - 6 or not value.isascii() or not value.isprintable() or {" ", "*"} & set(value):
        return None
    return _lowered(kind, value)


def _lowered(kind: str, value: str) -> str | None:
    match kind:
        case "DNS":
            return f"DNS:{value.lower()}"
        case "URI":
            scheme, authority, rest = _split(value)
            return f"URI:{scheme.lower()}{authority.lower()}{rest}" if scheme and not STEPS.search(rest) else None
        case "email":
            local, at, host = value.rpartition("@")
            return f"email:{local}@{host.lower()}" if local and at and host else None
        case "IP":
            try:
                return f"IP:{ipaddress.ip_address(value)}"
            except ValueError:
                return None
    return None


def _split(uri: str) -> tuple[str, str, str]:
    """Scheme with its colon, `//` and host, and the rest of a URI (RFC 3986, section 3). No scheme: not a URI."""
    found = SCHEME.match(uri)
    if found is None:
        return "", "", ""
    scheme, rest = found[0], uri[found.end() :]
    if not rest.startswith("//"):
        return scheme, "", rest
    end = next((place for place in range(2, len(rest)) if rest[place] in "/?#"), len(rest))
    return scheme, rest[:end], rest[end:]


def pattern(text: str) -> Fits:
    """What says whether a name, in its written form, fits.

    Raises ValueError, with a sentence, for what is no pattern.
    """
    kind, _, value = text.partition(":")
    if kind not in KINDS:
        raise ValueError("write it as `DNS:`, `URI:`, `email:` or `IP:`, and the name behind it")
    if kind == "IP":
        return _network(value)
    if normal(kind, value.replace("*", "_")) is None:
        raise ValueError("this is no such name: it takes plain characters, and for a URI its scheme")
    found = re.compile(_expression(kind, value))
    return lambda name: found.fullmatch(name) is not None


def _network(value: str) -> Fits:
    try:
        network = ipaddress.ip_network(value)
    except ValueError:
        raise ValueError("behind `IP:` goes an address, or a network such as 10.0.0.0/8") from None

    def fits(name: str) -> bool:
        return name.startswith("IP:") and ipaddress.ip_address(name[3:]) in network

    return fits


def _expression(kind: str, value: str) -> str:
    match kind:
        case "DNS":
            return "DNS:" + _starred(value.lower(), HOST)
        case "email":
            local, _, host = value.rpartition("@")
            return "email:" + _starred(local, LOCAL) + "@" + _starred(host.lower(), HOST)
    scheme, authority, rest = _split(value)
    return "URI:" + scheme.lower() + _starred(authority.lower(), HOST) + _starred(rest, PATH if authority else OPAQUE)


def _starred(text: str, may_be: str) -> str:
    """A regular expression for a text with stars, each for characters of this class. Raises ValueError for two that
    nothing outside of the class stands between."""
    if any(part.count("*") > 1 for part in re.split(f"[^*{may_be}]", text)):
        raise ValueError("a part of a name takes one `*`")
    return f"[{may_be}]+".join(re.escape(piece) for piece in text.split("*"))
