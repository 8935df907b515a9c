"""Settings of identity providers: what cannot work is named, with its place and the mend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.tokens import ISSUER, issuer, rsa
from vestry.configuration.inspection import inspect
from vestry.configuration.reading import read
from vestry.faults import ConfigurationError
from vestry.settings.tree import Settings

KEY = rsa("one")


def said(folder: Path, **changes: Any) -> str:
    """What reading a file with this issuer says; empty where nothing is wrong."""
    return of(folder, [issuer(folder, KEY, **changes)])


def of(folder: Path, issuers: list[dict[str, Any]]) -> str:
    file = folder / "vestry.yaml"
    file.write_text(json.dumps({"identity": {"issuers": issuers}}))
    try:
        read(file, {})
    except ConfigurationError as error:
        return str(error)
    return ""


def test_the_settings_that_are_broken_here_are_good(tmp_path: Path) -> None:
    """Else the rest would prove nothing."""
    assert said(tmp_path) == ""
    assert said(tmp_path, refresh_seconds=60, stale_seconds=70) == ""


@pytest.mark.parametrize(
    ("changes", "place", "what"),
    [
        ({"algorithms": ["HS256"]}, "identity.issuers.0.algorithms.0", "must be"),
        ({"algorithms": ["none"]}, "identity.issuers.0.algorithms.0", "must be"),
        ({"algorithms": []}, "identity.issuers.0.algorithms", ""),
        ({"audiences": []}, "identity.issuers.0.audiences", ""),
        ({"jwks_uri": "https://idp.test/k"}, "identity.issuers.0", "not from both"),
        ({"jwks_file": None, "jwks_uri": "http://idp.test/k"}, "identity.issuers.0.jwks_uri", "https only"),
        ({"jwks_file": None, "jwks_uri": "https://a:b@idp.test/k"}, "identity.issuers.0.jwks_uri", "https://host"),
        ({"jwks_file": None, "jwks_uri": "https://idp.test/k 1"}, "identity.issuers.0.jwks_uri", "https://host"),
        ({"jwks_file": None, "issuer": "https://idp.test/realm 1"}, "identity.issuers.0", "https://host"),
        ({"jwks_file": None, "issuer": "company"}, "identity.issuers.0", "https://host"),
        ({"leeway_seconds": 3600}, "identity.issuers.0.leeway_seconds", "at most 300"),
        ({"refresh_seconds": 1}, "identity.issuers.0.refresh_seconds", "at least 30"),
        ({"refresh_seconds": 86_400}, "identity.issuers.0", "set `stale_seconds` to at least 86410"),
        ({"refresh_seconds": 60, "stale_seconds": 69.9}, "identity.issuers.0", "set `stale_seconds` to at least 70"),
        ({"fetch_seconds": 1800}, "identity.issuers.0", "or lower these"),
        ({"grants": []}, "identity.issuers.0.grants", ""),
        ({"grants": [{}]}, "identity.issuers.0.grants.0", "either `tenant` or `tenant_claim`"),
        ({"grants": [{"tenant": "a", "tenants": {"x": "a"}}]}, "identity.issuers.0.grants.0", "for `tenant_claim`"),
        ({"grants": [{"tenant": "a", "roles": ["root"]}]}, "identity.issuers.0.grants.0.roles.0", ""),
        ({"subject": "a..b"}, "identity.issuers.0.subject", "write a claim as"),
        ({"scope": "x"}, "identity.issuers.0.scope", "no such setting"),
    ],
)
def test_a_bad_setting_is_named(tmp_path: Path, changes: dict[str, Any], place: str, what: str) -> None:
    """Each with its place, in words."""
    found = said(tmp_path, **changes)
    assert place.rsplit(".", 1)[-1] in found
    assert what in found


def test_there_is_one_entry_an_issuer(tmp_path: Path) -> None:
    """Two of one name, or of one `iss`, would be told apart by nothing."""
    one = issuer(tmp_path, KEY)
    assert "named `hospital`" in of(tmp_path, [one, {**one, "issuer": ISSUER + "/other"}])
    assert f"of the issuer `{ISSUER}`" in of(tmp_path, [one, {**one, "name": "other"}])


@pytest.mark.parametrize("content", ["{}", '{"keys": []}'])
def test_files_and_models_that_are_named_are_looked_at(content: str, tmp_path: Path) -> None:
    """Keys that are none, authorities that are none, a token that others may read, a model that is not served."""
    ca, token = tmp_path / "ca.pem", tmp_path / "token"
    ca.write_text("no certificate")
    token.write_text("t" * 20)
    token.chmod(0o644)
    grants = [{"tenant": "default", "models": ["nobody-serves-this"]}]
    settings = issuer(tmp_path, KEY, ca=str(ca), token=str(token), grants=grants)
    (tmp_path / "jwks.json").write_text(content)
    tree = {"state": tmp_path / "state", "identity": {"issuers": [settings]}}
    found = "\n".join(str(fault) for fault in inspect(Settings.model_validate(tree)))
    for part in ("identity.issuers.0.jwks_file", "identity.issuers.0.ca", str(token), "`nobody-serves-this`"):
        assert part in found
