"""The installation pages: what they tell a stranger to write is accepted, and what they name exists."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from support.charts import NAMESPACE, ROOT, Object, chart, named, render, render_files, validate
from vestry.cli import main
from vestry.configuration.reading import load
from vestry.models import catalog

HELM = ROOT / "docs" / "install-helm.md"
COMPOSE = ROOT / "docs" / "install-compose.md"
PHI = {"catalog": "phi-3-mini-4k-instruct", "volume": {"hostPath": {"path": "/srv/models/phi"}}}


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", blocks(HELM, "yaml"), ids=lambda block: str(block).split(":", 1)[0])
def test_the_values_shown_can_be_used(block: str) -> None:
    """Each piece of values renders, and every object of it is one that Kubernetes knows."""
    given: Object = {"models": {"phi-3-mini": PHI}, **yaml.safe_load(block)}
    given.setdefault("networkPolicy", {}).setdefault("clients", [{"podSelector": {}}])
    for each in render(given):
        validate(each, "1.37")


def test_the_least_values_make_the_one_tenant_that_they_show() -> None:
    """Helm merges: the chart's own tenant, which may use every model, would be there too."""
    [least] = [read for block in blocks(HELM, "yaml") if "image" in (read := yaml.safe_load(block))]
    rendered = named(render(least), "ConfigMap", "demo-vestry")["data"]["vestry.yaml"]
    assert list(yaml.safe_load(rendered)["tenants"]) == ["radiology"]
    assert "keys create --tenant radiology" in render_files(least)["NOTES.txt"]


CALLED = "THE SERVERS CANNOT REACH these"


@pytest.mark.parametrize("block", blocks(HELM, "yaml"), ids=lambda block: str(block).split(":", 1)[0])
def test_what_the_settings_shown_call_can_be_reached(block: str) -> None:
    """An identity provider of the page is let out to in the page's own values."""
    assert CALLED not in render_files({"models": {"phi-3-mini": PHI}, **yaml.safe_load(block)})["NOTES.txt"]


def test_the_notes_name_what_the_servers_cannot_reach() -> None:
    """Providers, copies and exports that the settings name, while nothing is let out to them; not those in files."""
    issuer: Object = {"issuer": "https://a.example", "audiences": ["v"], "grants": [{"tenant": "default"}]}
    files: Object = {"name": "files", "jwks_file": "/run/files/keys/jwks.json", **issuer}
    given: Object = {
        "models": {"phi-3-mini": PHI},
        "server": {"copies": {"here": {"existingClaim": "copies"}}, "files": {"keys": {"configMap": "keys"}}},
        "settings": {
            "identity": {"issuers": [files, {"name": "company", **issuer}]},
            "audit": {
                "copies": [
                    {"kind": "directory", "name": "here", "path": "/mnt/copies/here"},
                    {"kind": "syslog", "name": "log", "host": "log.example"},
                ],
                "exports": [{"name": "siem", "url": "https://siem.example/x"}],
            },
        },
    }
    said = render_files(given)["NOTES.txt"].partition(CALLED)[2].splitlines()
    assert [each.strip() for each in said[2:5]] == [
        "settings.identity.issuers: company",
        "settings.audit.copies: log",
        "settings.audit.exports: siem",
    ]
    peers: Object = {"services": [{"peers": [{"ipBlock": {"cidr": "10.0.0.1/32"}}], "port": 443}]}
    for policy in (peers, {"enabled": False}):
        assert CALLED not in render_files({**given, "networkPolicy": policy})["NOTES.txt"]


def test_there_are_values_to_use() -> None:
    """The page shows some (else the test above would prove nothing)."""
    assert len(blocks(HELM, "yaml")) >= 4


def test_the_names_in_the_commands_are_those_of_the_release() -> None:
    """Installed as the page says, the pods, claims, Secrets and Services are called what it calls them."""
    assert "helm upgrade --install vestry vestry-0.1.0.tgz --namespace vestry" in HELM.read_text()
    assert f"vestry-{chart().version}.tgz" in HELM.read_text()
    objects = render({"models": {"phi-3-mini": PHI}}, "vestry")
    server = named(objects, "StatefulSet", "vestry")
    (claim,) = server["spec"]["volumeClaimTemplates"]
    assert f"{claim['metadata']['name']}-{server['metadata']['name']}-0" == "state-vestry-0"
    assert set(re.findall(r"state-vestry-\d", HELM.read_text())) == {"state-vestry-0"}
    assert NAMESPACE != "vestry"
    labels = server["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/instance"] == "vestry"
    assert chart().values["secrets"]["existingSecret"] == "vestry-secrets"


@pytest.mark.parametrize("block", blocks(COMPOSE, "yaml"), ids=lambda block: str(block).split(":", 1)[0])
def test_the_compose_files_and_settings_shown_can_be_used(block: str, tmp_path: Path) -> None:
    """Each piece is a valid compose file whose variables the server accepts, or settings that it accepts."""
    shown: dict[str, Any] = yaml.safe_load(block)
    base = yaml.safe_load((ROOT / "deploy" / "compose" / "vestry.yaml").read_text())
    environ: dict[str, str] = {}
    if "services" in shown:
        schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
        jsonschema.validate(shown, json.loads(schema.read_text()))
        environ = shown["services"]["server"].get("environment", {})
    else:
        base |= shown
    (tmp_path / "vestry.yaml").write_text(yaml.safe_dump(base))
    assert load(tmp_path / "vestry.yaml", environ).models


def test_the_key_of_the_compose_page_outlives_its_settings(tmp_path: Path) -> None:
    """Its first key is one of the tenant that there is without settings; the tenants shown after it leave that one."""
    [shown] = [block for block in blocks(COMPOSE, "yaml") if block.startswith("tenants:")]
    model = {"models": {"phi-3-mini": {"catalog": "phi-3-mini-4k-instruct"}}}
    (tmp_path / "vestry.yaml").write_text(yaml.safe_dump(model | yaml.safe_load(shown)))
    assert load(None, {}).tenants.keys() < load(tmp_path / "vestry.yaml", {}).tenants.keys()


def test_hashed_content_has_its_key_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the secrets of the compose file alone `vestry check` names what asks for the key; with the page's piece over
    it (Compose adds its secrets to those before) the key is where the server looks.
    """
    base = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    [over] = [read for block in blocks(COMPOSE, "yaml") if "secrets" in (read := yaml.safe_load(block))]
    [name] = over["services"]["server"]["secrets"]
    [made] = re.findall(r"^openssl .* (/etc/vestry/secrets/content-hash)$", COMPOSE.read_text(), re.MULTILINE)
    assert over["secrets"][name]["file"] == "${VESTRY_SECRETS:-/etc/vestry/secrets}" + f"/{Path(made).name}"
    folder, allowed = tmp_path / "secrets", os.access
    folder.mkdir(mode=0o700)
    signing = CliRunner().invoke(main, ["audit", "init", "--name", "house.test/vestry", "--stdout"]).stdout.encode()
    for each in base["services"]["server"]["secrets"]:
        (folder / each).write_bytes(signing if each == "audit-key" else b"k" * 32)
        (folder / each).chmod(0o400)
    settings = yaml.safe_load((ROOT / "deploy" / "compose" / "vestry.yaml").read_text())
    assert settings["secrets"] == "/run/secrets"
    model = settings["models"]["phi-3-mini"]
    settings |= {
        "secrets": str(folder),
        "state": str(tmp_path / "state"),
        "models": {"phi-3-mini": {**model, "path": None}},
    }
    settings |= {"tenants": {"radiology": {"content": {"default": "hashed"}}}}
    (tmp_path / "vestry.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and allowed(path, mode))

    def faults() -> list[str]:
        """Where `vestry check` finds one. (What Docker mounts cannot be written to.)"""
        done = CliRunner().invoke(main, ["--config", str(tmp_path / "vestry.yaml"), "check", "--json"])
        return [each["place"].rpartition(" ")[2] for each in json.loads(done.stdout)["faults"]]

    assert faults() == ["tenants.radiology.content"]
    (folder / name).write_bytes(b"c" * 32)
    (folder / name).chmod(0o400)
    assert faults() == []


def test_a_strict_umask_hides_nothing_from_the_containers(tmp_path: Path) -> None:
    """In a checkout that only its owner may read, the page's commands open all that the compose file mounts from it."""
    project = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    sources = {
        (ROOT / "deploy" / mount["source"]).resolve().relative_to(ROOT)
        for service in project["services"].values()
        for mount in service["volumes"]
        if mount["type"] == "bind" and mount["source"].startswith(".")
    }
    for source in sources:
        folder = source if (ROOT / source).is_dir() else source.parent
        shutil.copytree(ROOT / folder, tmp_path / folder)
    subprocess.run(["chmod", "-R", "go-rwx", tmp_path], check=True)
    commands = re.findall(r"^chmod -R a\+rX [\w/ -]+$", COMPOSE.read_text(), re.MULTILINE)
    subprocess.run(["sh", "-euc", "\n".join(commands)], cwd=tmp_path, check=True)
    mounted = [each for source in sources for each in (tmp_path / source, *(tmp_path / source).rglob("*"))]
    assert {"vestry.yaml", "vestry_guard.py"} <= {each.name for each in mounted}
    for each in mounted:
        wanted = 0o005 if each.is_dir() else 0o004
        assert each.stat().st_mode & 0o007 == wanted, each


def test_memory_is_what_the_catalog_says() -> None:
    """The GPU memory that the compose page names for each family is the catalog's."""
    named_there = re.search(r"(\d+) GiB for Phi-3 mini, (\d+) for Llama 3 8B, (\d+) for Mixtral", COMPOSE.read_text())
    assert named_there is not None
    wanted = [catalog.entry(name).memory.gpu for name in ("phi-3-mini-4k-instruct", "llama-3-8b-instruct")]
    wanted.append(catalog.entry("mixtral-8x7b-instruct").memory.gpu)
    assert [int(each) for each in named_there.groups()] == wanted


@pytest.mark.parametrize("page", [HELM, COMPOSE], ids=lambda page: page.name)
def test_values_and_settings_that_are_named_exist(page: Path) -> None:
    """Each dotted name in code font is a value of the chart, or a setting."""
    known = {"settings": chart().values["settings"], "engine": chart().values["engine"]}
    text = page.read_text()
    named = re.findall(
        r"`((?:server|store|settings|engine|networkPolicy|monitoring|podSecurity|secrets)(?:\.\w+)+)`", text
    )
    assert named
    for dotted in named:
        trees = [chart().values, known["settings"], {"models": {}, "engine": known["engine"]}]
        assert any(_has(tree, dotted.split(".")) for tree in trees), dotted


def _has(tree: Any, steps: list[str]) -> bool:
    if not steps:
        return True
    return isinstance(tree, dict) and steps[0] in tree and _has(tree[steps[0]], steps[1:])
