"""Values with `*` in them: they mean what the regular expression means, and no text takes long to compare."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestry.starred import one_of

VALUES = st.lists(st.text("ab*", min_size=1, max_size=7), min_size=1, max_size=3).map(tuple)


@given(values=VALUES, text=st.text("ab*\n", max_size=12))
def test_a_star_stands_for_any_characters(values: tuple[str, ...], text: str) -> None:
    """Any number of them, none and line ends among them; all else is itself, from end to end."""
    meant = "|".join(".*".join(map(re.escape, each.split("*"))) for each in values)
    assert one_of(values)(text) == (re.fullmatch(meant, text, re.DOTALL) is not None)


@pytest.mark.parametrize("text", ["ward-7", "ward-", "ward-\n7", "lead of ward, floor", "[]"])
def test_some_that_fit(text: str) -> None:
    """Alone, at the end, in the middle, and with nothing in its place."""
    assert one_of(("ward-*", "* of *, *", "[*]"))(text)


@pytest.mark.parametrize("text", ["", "ward", "Ward-7", "xward-7", "a.b", "aba"])
def test_some_that_do_not(text: str) -> None:
    """Cases differ, a full stop is one, and what begins the value may not end it too."""
    assert not one_of(("ward-*", "a?b", "a.c", "ab*ba"))(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("*-*-x", "-" * 12_000),
        ("*, *, * (ward)", ", " * 6000),
        ("*a" * 127 + "*b", "a" * 12_000),
        ("*" + "a" * 127 + "b" + "a" * 126 + "*", "a" * 12_000),
        ("*" * 256, "a" * 12_000),
    ],
)
def test_no_text_takes_long(value: str, text: str) -> None:
    """As long as a token can be, and made for the value: a regular expression took seconds to centuries."""
    began = time.process_time()
    one_of((value,))(text)
    assert time.process_time() - began < 0.1
