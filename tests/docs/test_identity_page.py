"""The page on identity providers: its settings are valid, and say what the page says that they do."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from support.tokens import claims
from vestry.adapters.tokens.compact import BadToken, Compact
from vestry.adapters.tokens.judging import holder, judge
from vestry.composition.identity import rules_of
from vestry.configuration.reading import read
from vestry.settings.identity import Issuer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "identity.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
KUBERNETES = {"namespace": "cardiology", "serviceaccount": {"name": "triage"}}
SHOWN: dict[str, tuple[dict[str, Any], tuple[str, str, str]]] = {
    "company": ({"groups": ["ward-7", "llm-admins"]}, ("radiology", "alice", "tenant-admin,user")),
    "keycloak": (
        {"preferred_username": "ann", "realm_access": {"roles": ["llm-user", "offline_access"]}},
        ("radiology", "ann", "user"),
    ),
    "entra": ({"oid": "0-1", "roles": ["Vestry.User"]}, ("lending", "0-1", "user")),
    "okta": ({"groups": ["Everyone", "Legal - Berlin"]}, ("legal", "alice", "user")),
    "cluster": (
        {"sub": "system:serviceaccount:cardiology:triage", "kubernetes.io": KUBERNETES},
        ("cardiology", "system:serviceaccount:cardiology:triage", "user"),
    ),
}


def example(name: str, folder: Path) -> Issuer:
    """An example's issuer, read as a settings file is."""
    (text,) = [each for each in EXAMPLES if f"name: {name}\n" in each]
    file = folder / "vestry.yaml"
    file.write_text(text)
    return read(file, {}).settings.identity.issuers[0]


def test_there_is_an_example_for_each() -> None:
    """None is forgotten here."""
    assert re.findall(r"- name: (\w+)", "".join(EXAMPLES)) == list(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_is_valid_and_gives_what_the_page_says(name: str, tmp_path: Path) -> None:
    """Claims as that provider makes them become a tenant, a subject and roles; others become nobody."""
    rules = rules_of(example(name, tmp_path))
    said, (tenant, subject, roles) = SHOWN[name]
    found = holder(rules, claims(groups=None) | said)
    assert (found.tenant, found.subject, found.role) == (tenant, subject, roles)
    with pytest.raises(BadToken):
        holder(rules, claims(groups=["strangers"]))


def test_id_tokens_are_refused_as_far_as_the_page_says(tmp_path: Path) -> None:
    """Those that can be told; all others by their audience, or by `typ`."""
    issuer = example("company", tmp_path)
    rules, now = rules_of(issuer), time.time()
    plain = claims(iss=issuer.issuer, auth_time=int(now), acr="1", amr=["pwd"], sid="s", email="alice@a.test")
    told = {"nonce": "n", "at_hash": "h", "c_hash": "h", "typ": "ID"}
    assert judge(rules, Compact("", "RS256", None, "jwt", plain), None, now)
    for name, value in told.items():
        assert f"`{name}`" in PAGE.read_text() or f"`{name}: {value}`" in PAGE.read_text()
        with pytest.raises(BadToken, match="ID token"):
            judge(rules, Compact("", "RS256", None, "jwt", plain | {name: value}), None, now)
    for strict, said in ((rules, plain | {"aud": "portal"}), (replace(rules, access_tokens_only=True), plain)):
        with pytest.raises(BadToken):
            judge(strict, Compact("", "RS256", None, "jwt", said), None, now)
