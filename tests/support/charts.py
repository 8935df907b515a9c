"""Rendering the chart with Helm as a library, and reading what comes out as a cluster would."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import yaml
from helm_python import Chart

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "vestry"
SETS = {path.stem.removesuffix("-values"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))}
RELEASE = "demo"
NAMESPACE = "hospital"

Object = dict[str, Any]


def values(name: str) -> Object:
    """One of the value sets in `helm/vestry/ci`."""
    read = yaml.safe_load(SETS[name].read_text())
    assert isinstance(read, dict)
    return read


@cache
def chart() -> Chart:
    """The chart, loaded once."""
    return Chart.load(CHART)


def render_files(given: Object, release: str = RELEASE, namespace: str = NAMESPACE) -> dict[str, str]:
    """What each template gives, by its file's name. Raises Helm's errors for values that it refuses."""
    rendered = chart().render(values=given, name=release, namespace=namespace)
    return {path.rsplit("/", 1)[1]: text for path, text in rendered.items()}


def render(given: Object, release: str = RELEASE, namespace: str = NAMESPACE) -> list[Object]:
    """Every object of the release."""
    found = []
    for name, text in render_files(given, release, namespace).items():
        if name != "NOTES.txt":
            found += [each for each in yaml.load_all(text, yaml.CSafeLoader) if each is not None]
    return found


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [each for each in objects if each["kind"] == kind]


def named(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = [each for each in of_kind(objects, kind) if each["metadata"]["name"] == name]
    return found


# The Prometheus operator's schemas are not among Kubernetes' own: this is the part of them that the chart uses, closed.
_LABELS = {"type": "object", "additionalProperties": {"type": "string"}}


def _closed(**properties: Any) -> Object:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": sorted(properties),
        "properties": properties,
    }


_DURATION = {"type": "string", "pattern": r"^([0-9]+(ms|[smhd]))+$"}
_ENDPOINT = _closed(
    port={"type": "string"},
    path={"const": "/metrics"},
    scheme={"enum": ["http", "https"]},
    interval=_DURATION,
    scrapeTimeout=_DURATION,
)
SERVICE_MONITOR = _closed(
    apiVersion={"const": "monitoring.coreos.com/v1"},
    kind={"const": "ServiceMonitor"},
    metadata=_closed(name={"type": "string"}, labels=_LABELS),
    spec=_closed(
        selector=_closed(matchLabels=_LABELS),
        namespaceSelector=_closed(matchNames={"type": "array", "items": {"type": "string"}, "minItems": 1}),
        endpoints={"type": "array", "minItems": 1, "items": _ENDPOINT},
    ),
)
_RULE = _closed(
    alert={"type": "string"},
    expr={"type": "string"},
    labels=_LABELS,
    annotations=_LABELS,
)
_RULE["properties"]["for"] = _DURATION
PROMETHEUS_RULE = _closed(
    apiVersion={"const": "monitoring.coreos.com/v1"},
    kind={"const": "PrometheusRule"},
    metadata=_closed(name={"type": "string"}, labels=_LABELS),
    spec=_closed(
        groups={"type": "array", "items": _closed(name={"type": "string"}, rules={"type": "array", "items": _RULE})}
    ),
)
_OPERATORS = {"ServiceMonitor": SERVICE_MONITOR, "PrometheusRule": PROMETHEUS_RULE}


def validate(each: Object, version: str) -> None:
    """Check one object against the schema of its kind. Raises a ValidationError that says where it is wrong."""
    if each["kind"] in _OPERATORS:
        jsonschema.validate(each, _OPERATORS[each["kind"]])
    else:
        kubernetes_validate.validate(each, version, strict=True)


# Pods, and what they may say to each other.


@dataclass(frozen=True)
class Pod:
    """A pod as network policies see it. `address` is only for pods that are told apart by it."""

    labels: dict[str, str] = field(default_factory=dict)
    namespace: str = NAMESPACE
    address: str = "10.99.0.1"


def pod_templates(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Name and pod template of each workload."""
    for each in objects:
        if "template" in each.get("spec", {}):
            yield each["metadata"]["name"], each["spec"]["template"]


def pod_of(objects: list[Object], name: str) -> Pod:
    """A pod of this workload."""
    return Pod(dict(pod_templates(objects))[name]["metadata"]["labels"])


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector matches; an empty one matches everything (apimachinery's LabelSelector)."""
    for expression in selector.get("matchExpressions", []):
        inside = labels.get(expression["key"]) in expression.get("values", [])
        present = expression["key"] in labels
        verdict = {"In": inside, "NotIn": not inside, "Exists": present, "DoesNotExist": not present}
        if not verdict[expression["operator"]]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def _is_peer(peer: Object, pod: Pod, home: str) -> bool:
    if "ipBlock" in peer:
        address = ipaddress.ip_address(pod.address)
        inside = address in ipaddress.ip_network(peer["ipBlock"]["cidr"])
        return inside and not any(address in ipaddress.ip_network(each) for each in peer["ipBlock"].get("except", []))
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": pod.namespace}):
            return False
    elif pod.namespace != home:
        return False
    return selects(peer.get("podSelector", {}), pod.labels)


def _allowed(objects: list[Object], direction: str, here: Pod, there: Pod, at: tuple[int, str]) -> bool:
    """NetworkPolicy (networking.k8s.io/v1): a pod that any policy selects is closed but for what one of them allows."""
    rules_key, peers_key = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    policies = [
        each["spec"]
        for each in of_kind(objects, "NetworkPolicy")
        if direction in each["spec"]["policyTypes"]
        and here.namespace == NAMESPACE
        and selects(each["spec"]["podSelector"], here.labels)
    ]
    if not policies:
        return True
    for rule in (rule for policy in policies for rule in policy.get(rules_key) or []):
        peers, ports = rule.get(peers_key) or [], rule.get("ports") or []
        at_peer = not peers or any(_is_peer(peer, there, NAMESPACE) for peer in peers)
        at_port = not ports or any((each["port"], each["protocol"]) == at for each in ports)
        if at_peer and at_port:
            return True
    return False


def enters(objects: list[Object], source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
    """Whether the target's side lets the connection in, whatever the source's side may do."""
    return _allowed(objects, "Ingress", target, source, (port, protocol))


def leaves(objects: list[Object], source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
    """Whether the source's side lets the connection out, whatever the target's side may do."""
    return _allowed(objects, "Egress", source, target, (port, protocol))


def reaches(objects: list[Object], source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
    """Whether the release's policies let one pod open a connection to another."""
    return leaves(objects, source, target, port, protocol) and enters(objects, source, target, port, protocol)
