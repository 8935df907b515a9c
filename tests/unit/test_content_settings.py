"""Settings of content: modes by tenant and route, auditors, holds; every fault with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from vestry.audit.content.sealing import new_private
from vestry.auditor import AuditorKey, secret_text
from vestry.composition.recording import rule_modes, sealers
from vestry.configuration.reading import load, read
from vestry.faults import ConfigurationError
from vestry.house import contents_of
from vestry.settings.record import Hold
from vestry.settings.tree import Settings
from vestry.types import ContentMode

PRIVATE, PUBLIC = new_private()


def faults(tmp_path: Path, tree: dict[str, Any]) -> list[str]:
    """What is said of a settings file."""
    path = tmp_path / "vestry.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigurationError) as told:
        load(path, {})
    return [str(fault) for fault in told.value.faults]


def test_nothing_is_kept_unless_said() -> None:
    """The default is `metadata`, on every route of every tenant."""
    assert contents_of(Settings().tenants) == {}


def test_modes_are_by_tenant_and_route(tmp_path: Path) -> None:
    """The route's wins; an environment variable can set the default."""
    path = tmp_path / "vestry.yaml"
    content = {"default": "hashed", "routes": {"chat.completions": "sealed", "completions": "metadata"}}
    path.write_text(
        yaml.safe_dump({"audit": {"auditor": str(PUBLIC)}, "tenants": {"a": {"content": content}, "b": None}})
    )
    assert contents_of(load(path, {}).tenants) == {("a", "chat.completions"): ContentMode.SEALED}
    changed = load(path, {"VESTRY_TENANTS__B__CONTENT__DEFAULT": "full"})
    assert contents_of(changed.tenants)["b", "completions"] == ContentMode.FULL


def test_a_rule_has_a_mode_of_its_own() -> None:
    """What rules keep is known at the start, as what tenants keep is; rules that keep nothing say nothing."""
    rules = [{"name": "a"}, {"name": "b", "content": "metadata"}, {"name": "c", "content": "hashed"}]
    assert rule_modes(Settings.model_validate({"policy": {"rules": rules}})) == {ContentMode.HASHED}
    assert rule_modes(Settings.model_validate({"policy": {"rules": rules[:2]}})) == set()


def test_a_tenants_own_auditor_wins() -> None:
    """And is enough by itself."""
    other = new_private()[1]
    own = {"content": {"default": "sealed", "auditor": str(other)}}
    settings = Settings.model_validate({"tenants": {"a": own}})
    assert sealers(settings, settings.tenants)["a"].auditor == other
    both = {"audit": {"auditor": str(PUBLIC)}, "tenants": {"a": own, "b": {"content": {"default": "sealed"}}}}
    settings = Settings.model_validate(both)
    found = sealers(settings, settings.tenants)
    assert (found["a"].auditor, found["b"].auditor) == (other, PUBLIC)


def test_whether_one_can_seal_to_an_auditor_is_tried_once() -> None:
    """And not for each tenant whenever a key is made: of five thousand that took more than half a second."""
    settings = Settings.model_validate({"audit": {"auditor": str(PUBLIC)}, "tenants": {"a": {}, "b": {}}})
    found = sealers(settings, settings.tenants)
    assert found["a"] is found["b"] is sealers(settings, settings.tenants)["a"]


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"tenants": {"a": {"content": {"default": "none"}}}}, ["tenants.a.content.default", "'sealed'"]),
        ({"tenants": {"a": {"content": {"routes": {"chat": "full"}}}}}, ["tenants.a.content.routes", "chat"]),
        ({"tenants": {"a": {"content": {"routes": {"completions": "no"}}}}}, ["tenants.a.content.routes.completions"]),
        ({"tenants": {"a": {"content": {"mode": "full"}}}}, ["tenants.a.content.mode", "no such setting"]),
        ({"tenants": {"a": {"content": {"default": "sealed"}}}}, ["tenants.a.content", "vestry audit keygen"]),
        ({"audit": {"auditor": "x"}}, ["audit.auditor", "vestry-auditor-"]),
        ({"audit": {"auditor": secret_text(PRIVATE)}}, ["audit.auditor", "other half"]),
        ({"audit": {"holds": [{"reason": "x"}]}}, ["audit.holds[0]", "`tenant`"]),
        ({"audit": {"holds": [{"tenant": "a"}]}}, ["audit.holds[0].reason", "missing"]),
        ({"audit": {"holds": [{"subject": "", "reason": "x"}]}}, ["audit.holds[0].subject"]),
        ({"audit": {"content_bytes": 1}}, ["audit.content_bytes", "4096"]),
        ({"audit": {"origin": "server/content"}}, ["audit.origin", "content"]),
        ({"audit": {"origin": "tile"}}, ["audit.origin", "tile"]),
        ({"audit": {"origin": "checkpoint"}}, ["audit.origin", "checkpoint"]),
        ({"audit": {"origin": "ward/lock"}}, ["audit.origin", "lock"]),
    ],
)
def test_every_fault_is_named(tmp_path: Path, tree: dict[str, Any], said: list[str]) -> None:
    """With its place, and what mends it; a private key in the wrong place is never repeated."""
    told = faults(tmp_path, tree)
    assert len(told) == 1
    for each in said:
        assert each in told[0]
    assert secret_text(PRIVATE) not in told[0]


def test_a_key_of_small_order_does_not_start() -> None:
    """It has the right checksum, and everybody could open what is sealed to it."""
    weak = str(AuditorKey(bytes(32)))
    settings = Settings.model_validate(
        {"audit": {"auditor": weak}, "tenants": {"a": {"content": {"default": "sealed"}}}}
    )
    with pytest.raises(ValueError):
        sealers(settings, settings.tenants)


def test_a_hold_names_somebody() -> None:
    """A tenant, a subject, or both; and no name that nobody can have."""
    for given in ({"tenant": "a"}, {"subject": "b"}, {"tenant": "a", "subject": "b"}):
        assert Hold.model_validate({**given, "reason": "x"})
    with pytest.raises(ValidationError):
        Hold(reason="x")
    for nobody in ("", " b", "b\t"):
        with pytest.raises(ValidationError):
            Hold(subject=nobody, reason="x")


def test_the_place_of_a_missing_auditor_is_its_line(tmp_path: Path) -> None:
    """`vestry.yaml:5`, not the file as a whole."""
    path = tmp_path / "vestry.yaml"
    path.write_text("log_level: info\ntenants:\n  b:\n  a:\n    content:\n      default: sealed\n")
    with pytest.raises(ConfigurationError) as told:
        read(path, {})
    assert told.value.faults[0].place == f"{path}:5 tenants.a.content"
