"""How the things of the directory are named."""

from __future__ import annotations

import re

from vestry.settings.section import LABEL
from vestry.types import Kind

NAMES = {Kind.TENANT: LABEL, Kind.PROJECT: LABEL, Kind.POLICY: "^policy$"}
SUBJECT = r"(?!\s)[^\x00-\x1f\x7f]{1,128}(?<!\s)"


def is_name(kind: Kind, name: str) -> bool:
    """Whether something of this kind may have this name."""
    return name.isprintable() and re.fullmatch(NAMES.get(kind, SUBJECT), name) is not None
