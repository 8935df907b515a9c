"""How the things of the directory are named."""

from __future__ import annotations

import re

from vestry.settings.section import LABEL
from vestry.types import Kind

NAMES = {Kind.TENANT: LABEL, Kind.PROJECT: LABEL, Kind.POLICY: "^policy$"}
SUBJECT = r"(?!\s)[^\x00-\x1f\x7f]{1,128}(?<!\s)"
UNSEEN = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
"""What counts as printable and shows nothing, such as the Hangul fillers and the empty Braille pattern."""


def is_seen(name: str) -> bool:
    """Whether a name begins and ends with something that shows: else it looks like another, or like none."""
    return name == name.strip(UNSEEN)


def is_name(kind: Kind, name: str) -> bool:
    """Whether something of this kind may have this name."""
    return name.isprintable() and re.fullmatch(NAMES.get(kind, SUBJECT), name) is not None
