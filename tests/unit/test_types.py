"""The nouns of the corridor are values: frozen, equal by what they hold, with defaults that promise nothing."""

from __future__ import annotations

import inspect

import msgspec
import pytest
from msgspec import Struct

from vestry import types
from vestry.types import Ending, Limits, Outcome, Principal, Replica, Usage

STRUCTS = [
    each for _, each in inspect.getmembers(types, inspect.isclass) if issubclass(each, Struct) and each != Struct
]


@pytest.mark.parametrize("struct", STRUCTS)
def test_every_noun_is_frozen(struct: type[Struct]) -> None:
    """No step can change what another has decided."""
    assert struct.__struct_config__.frozen
    with pytest.raises(AttributeError):
        setattr(Limits() if struct is Limits else msgspec.convert({}, Limits), struct.__struct_fields__[0], 1)


def test_nouns_are_equal_by_what_they_hold() -> None:
    """Two replicas of the same name and address are the same."""
    assert Replica("a", "http://127.0.0.1:1") == Replica("a", "http://127.0.0.1:1")
    assert Usage(1) != Usage(1, estimated=True)


def test_defaults_promise_nothing() -> None:
    """A principal without further words is a plain user without bounds of its own; an outcome has used nothing."""
    principal = Principal("key_1", "default", "alice")
    assert (principal.role, principal.models, principal.limits) == ("user", None, Limits(None, None))
    outcome = Outcome(Ending.FAILED, 502)
    assert (outcome.usage, outcome.attempts, outcome.first_byte, outcome.last) == (Usage(), 0, None, b"")
