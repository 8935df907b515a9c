"""Content that is `hashed` has its key in the pod, whoever asks for it; where nobody does, no pod waits for one."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from support.charts import Object, render, values
from support.pods import Container
from vestry.cli import main

SERVER = "demo-vestry"
RULE = {"policy": {"rules": [{"name": "keep", "content": "hashed"}]}}
TENANT = {"tenants": {"default": {"content": {"routes": {"completions": "hashed"}}}}}
MERELY_NAMED: dict[str, Any] = {"tenants": {"hashed": {}}}


def pod(settings: Object, folder: Path, **more: bytes) -> Container:
    """A server's pod with these settings, whose Secret has these entries beside the three. (A KeyError: it waits.)"""
    given = values("gpu")
    given["settings"] = settings
    signing = CliRunner().invoke(main, ["audit", "init", "--name", "house.test/vestry", "--stdout"]).stdout.encode()
    made = {"key-hash": secrets.token_bytes(32), "engine-key": b"e" * 32, "audit-key": signing}
    return Container(render(given), "StatefulSet", SERVER, folder, {"vestry-secrets": {**made, **more}})


@pytest.mark.parametrize("settings", [RULE, TENANT, MERELY_NAMED, {}], ids=["rule", "tenant", "name", "directory"])
def test_the_key_is_there_if_the_secret_has_it(settings: Object, tmp_path: Path) -> None:
    """Rules, and tenants of the directory that no value shows, hash content as tenants of the settings do."""
    key = secrets.token_bytes(32)
    container = pod(settings, tmp_path, **{"content-hash": key})
    assert container.path("/run/secrets/vestry/content-hash").read_bytes() == key


@pytest.mark.parametrize(
    ("settings", "said"),
    [(RULE, "policy.rules[0].content"), (TENANT, "tenants.default.content"), (MERELY_NAMED, None), ({}, None)],
    ids=["rule", "tenant", "name", "directory"],
)
def test_without_the_key_a_pod_starts_and_says_what_it_lacks(
    settings: Object, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for an entry that may be for nothing; `vestry check`, as `serve`, names what asks for it.
    (What Kubernetes mounts cannot be written to.)
    """
    container = pod(settings, tmp_path)
    folder, allowed = container.path("/run/secrets/vestry"), os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and allowed(path, mode))
    assert not (folder / "content-hash").exists()
    found = json.loads(container.vestry("check", "--json").stdout)
    assert [each["place"].rpartition(" ")[2] for each in found["faults"]] == ([said] if said else [])
