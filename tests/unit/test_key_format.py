"""Keys have a shape that anyone can check offline."""

from __future__ import annotations

import math
import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestry.adapters.key_format import DIGITS, LENGTH, PATTERN, RANDOM, checksum, mint, mint_id, well_formed

KEY = "vst_" + "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg"
WRITTEN_DOWN = "1y9Vts"


def test_a_key_has_256_bits() -> None:
    """The random part alone carries at least 256 bits."""
    assert RANDOM * math.log2(len(DIGITS)) >= 256
    assert len(set(DIGITS)) == 62


def test_the_checksum_is_the_documented_one() -> None:
    """A scanner that follows the description (CRC-32 in base 62, most significant digit first) gets the same."""
    value, digits = zlib.crc32(KEY.encode()), ""
    while value:
        value, digit = divmod(value, 62)
        digits = DIGITS[digit] + digits
    assert checksum(KEY) == digits.rjust(6, "0")


def test_the_format_does_not_change() -> None:
    """A key once issued stays valid: this is one that was written down."""
    assert checksum(KEY) == WRITTEN_DOWN
    assert well_formed(KEY + WRITTEN_DOWN)


def test_minted_keys_are_well_formed_and_differ() -> None:
    """Each new key has the shape, the checksum, and is new."""
    keys = {mint() for _ in range(200)}
    assert len(keys) == 200
    assert all(well_formed(key) and re.fullmatch(PATTERN, key) and len(key) == LENGTH for key in keys)


def test_minted_ids_are_public_names() -> None:
    """An id says that it is one, and cannot be taken for a key."""
    ids = {mint_id() for _ in range(200)}
    assert len(ids) == 200
    assert all(re.fullmatch(r"key_[0-9A-Za-z]{16}", each) and not well_formed(each) for each in ids)


@given(position=st.integers(0, LENGTH - 1), character=st.sampled_from(DIGITS + "-_ é\n"))
def test_one_wrong_character_shows(position: int, character: str) -> None:
    """A key with one character changed is not well-formed: the checksum finds every single mistake."""
    good = KEY + WRITTEN_DOWN
    key = good[:position] + character + good[position + 1 :]
    assert well_formed(key) == (key == good)


@pytest.mark.parametrize("change", [lambda key: key[:-1], lambda key: key + "0", lambda key: " " + key, str.lower])
def test_other_shapes_are_refused(change: object) -> None:
    """Cut, extended, padded and re-cased keys are not well-formed."""
    assert callable(change)
    key = KEY + checksum(KEY)
    assert not well_formed(change(key))
