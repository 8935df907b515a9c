"""Names and texts arrive in the objects as they were given, also where YAML would read something else in them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from support.charts import CHART, Object, named, of_kind, pod_templates, render, validate, values

NAMED = re.compile(r"(?:\S+: |- )(?:\S+: )?\[?(?:\w+, )*\{\{-? (?P<action>.*?) -?\}\}\]?")
"""A line whose whole value, or a whole item of it, is what an action gives."""
WHOLE = re.compile(r".*\| quote|(int|int64|add|max) .*")
"""Actions that give a text in quotes, or a number."""


def phi(volume: Object, **more: Any) -> Object:
    """A model's values."""
    return {"catalog": "phi-3-mini-4k-instruct", "volume": volume, **more}


def model_of(objects: list[Object], workload: str) -> tuple[Object, Object]:
    """The volume with a model's files, and where it is mounted."""
    pod = dict(pod_templates(objects))[workload]["spec"]
    [volume] = [each for each in pod["volumes"] if each["name"] == "model"]
    [mount] = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "model"]
    return volume, mount


def awkward() -> Object:
    """Everything on, and every name that may be one a number or a word of YAML's."""
    given = values("everything")
    given.pop("nameOverride")
    given |= {"imagePullSecrets": ["1", "off"], "secrets": {"existingSecret": "10"}}
    given["image"] = {"repository": "12", "tag": "30", "pullPolicy": "Always"}  # 12:30 was a number once
    given["server"]["tls"] |= {"existingSecret": "2", "clientCaSecret": "true"}
    given["server"]["persistence"]["storageClassName"] = "0.5"
    given["server"]["priorityClassName"] = "1e3"
    given["server"]["files"] = {"on": {"secret": "3"}, "off": {"configMap": "null"}}
    given["store"]["postgresql"] |= {
        "existingSecret": "4",
        "entries": {"url": "5", "user": "yes", "password": "6"},
        "caConfigMap": "7",
        "clientCertificateSecret": "no",
    }
    given["store"]["postgresql"]["migration"] |= {"existingSecret": "8", "clientCertificateSecret": "9"}
    given["settings"]["server"].pop("allowed_hosts")
    given["ingress"] |= {"className": "11", "hosts": ["*.example.org", "123"], "tlsSecret": "0x1f"}
    given["models"] = {
        "on": phi({"persistentVolumeClaim": {"claimName": "123", "subPath": "1.0"}}, runtimeClassName="1"),
        "off": phi({"persistentVolumeClaim": {"claimName": "true", "subPath": "a: b"}}, priorityClassName="2"),
        "1": phi({"hostPath": {"path": "/srv/models/phi # 2"}}, image={"repository": "1", "tag": "59"}),
        "2": phi({"hostPath": {"path": '/srv/a "b" \\n c: {d}'}}),
    }
    given["settings"]["tenants"].pop("radiology")
    return given


@pytest.mark.parametrize(
    ("release", "more"), [("123", {"fullnameOverride": "vestry"}), ("true", {"fullnameOverride": "null"}), ("no", {})]
)
def test_a_text_stays_a_text(release: str, more: Object) -> None:
    """Names that look like numbers or words of YAML, in a namespace and a release that do: each object validates."""
    objects = render(awkward() | more, release, "2024")
    for each in objects:
        validate(each, "1.37")
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == release
    for monitor in of_kind(objects, "ServiceMonitor"):
        assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["2024"]}


def test_folders_and_hosts_arrive_whole() -> None:
    """A `#`, a colon, a quote in a path do not make it another folder, nor does a `*` spoil the Ingress."""
    objects = render(awkward() | {"fullnameOverride": "a"})
    found = {name: model_of(objects, f"a-{name}") for name in ("on", "off", "1", "2")}
    assert {name: volume.get("hostPath", {}).get("path") for name, (volume, _) in found.items()} == {
        "on": None,
        "off": None,
        "1": "/srv/models/phi # 2",
        "2": '/srv/a "b" \\n c: {d}',
    }
    assert {name: mount.get("subPath") for name, (_, mount) in found.items()} == {
        "on": "1.0",
        "off": "a: b",
        "1": None,
        "2": None,
    }
    assert found["on"][0]["persistentVolumeClaim"]["claimName"] == "123"
    [ingress] = of_kind(objects, "Ingress")
    assert [each["host"] for each in ingress["spec"]["rules"]] == ["*.example.org", "123"]
    [tls] = ingress["spec"]["tls"]
    assert tls == {"hosts": ["*.example.org", "123"], "secretName": "0x1f"}


def test_every_text_is_quoted() -> None:
    """No template hands a text to YAML bare: whatever an action gives as a value is in quotes, or is a number."""
    found = 0
    for path in sorted((CHART / "templates").glob("[!N]*")):
        for line in path.read_text().splitlines():
            if match := NAMED.fullmatch(line.strip()):
                found += 1
                assert WHOLE.fullmatch(match["action"]), f"{path.name}: {line.strip()}"
    assert found > 100


@pytest.mark.parametrize("model", ["admin", "ops", "migration", "engines", "guard", "dashboard", "deny"])
def test_no_model_takes_a_name_of_the_releases_own(model: str) -> None:
    """Whatever a model is called, no two objects of a kind have one name; the administration keeps its Service."""
    given = values("everything")
    given.pop("nameOverride")
    given["models"][model] = given["models"]["smollm2-135m-instruct"] | {"catalog": "smollm2-135m-instruct"}
    given["models"][model]["podDisruptionBudget"] = {"enabled": True}
    objects = render(given)
    identities = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(identities)) == len(identities)
    [port] = named(objects, "Service", "demo-vestry-admin")["spec"]["ports"]
    assert port["targetPort"] == "admin"
