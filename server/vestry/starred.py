"""Texts in which `*` stands for any characters, compared with texts that others have chosen.

What stands between two stars is looked for from left to right, and the first place is taken: no later one leaves more
for what comes behind it. So nothing is tried again, as a regular expression would, for seconds where a text is made so.
"""

from __future__ import annotations

from collections.abc import Callable

Fits = Callable[[str], bool]


def one_of(values: tuple[str, ...]) -> Fits:
    """What says whether a text is one of these."""
    whole = frozenset(each for each in values if "*" not in each)
    starred = [_starred(each) for each in values if "*" in each]
    return lambda text: text in whole or any(fits(text) for fits in starred)


def _starred(value: str) -> Fits:
    first, *between, last = value.split("*")

    def fits(text: str) -> bool:
        place, end = len(first), len(text) - len(last)
        if place > end or not (text.startswith(first) and text.endswith(last)):
            return False
        for piece in between:
            found = text.find(piece, place, end)
            if found < 0:
                return False
            place = found + len(piece)
        return True

    return fits
