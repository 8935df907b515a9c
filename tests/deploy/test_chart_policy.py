"""What the chart promises about safety: pods without rights, secrets by name only, and a network closed by default."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from support.charts import (
    CHART,
    NAMESPACE,
    SETS,
    Object,
    Pod,
    chart,
    enters,
    leaves,
    named,
    of_kind,
    pod_of,
    pod_templates,
    reaches,
    render,
    selects,
    values,
)

API, OPS, ADMIN, ENGINE = 8080, 8081, 8082, 8000
MIGRATIONS = {"demo-vestry-migration", "demo-gateway-migration"}
STRANGER = Pod({"app": "stranger"})
PORTAL = Pod({"app": "radiology-portal"})
DNS = Pod({"k8s-app": "kube-dns"}, "kube-system")
PROMETHEUS = Pod({"app.kubernetes.io/name": "prometheus"}, "monitoring")
INTERNET = Pod({}, "nowhere", "203.0.113.7")


def containers(name: str) -> Iterator[tuple[str, Object, Object]]:
    """Workload, pod and container of each container in a value set."""
    for workload, template in pod_templates(render(values(name))):
        assert "initContainers" not in template["spec"]
        for container in template["spec"]["containers"]:
            yield workload, template["spec"], container


# Pods.


@pytest.mark.parametrize("name", SETS)
def test_pods_have_no_rights(name: str) -> None:
    """Every pod meets the restricted Pod Security Standard, and its file system is read-only."""
    found = list(containers(name))
    assert found
    for workload, pod, container in found:
        assert pod["securityContext"]["runAsNonRoot"] is True, workload
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC", "hostUsers", "shareProcessNamespace"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
        }
        assert not [port for port in container.get("ports", []) if "hostPort" in port]
    for account in of_kind(render(values(name)), "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_a_cluster_may_choose_the_user_but_never_root() -> None:
    """`null` for the user leaves it out, as OpenShift wants it; runAsNonRoot stays."""
    objects = render({"podSecurity": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}})
    ((_, template),) = pod_templates(objects)
    assert template["spec"]["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


@pytest.mark.parametrize("name", SETS)
def test_containers_are_bounded_and_watched(name: str) -> None:
    """Every container has requests, a memory limit, three probes if it serves, and an image with a tag or digest."""
    for workload, pod, container in containers(name):
        resources = container["resources"]
        assert {"cpu", "memory"} <= resources["requests"].keys(), workload
        assert "memory" in resources["limits"]
        ports = {port["name"] for port in container.get("ports", [])}
        assert bool(ports) == (workload not in MIGRATIONS)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe") if ports else ():
            assert container[probe]["httpGet"]["port"] in ports
        assert re.fullmatch(r"[^:@\s]+:(?!latest)[^:@\s]+(@sha256:[0-9a-f]{64})?", container["image"])
        assert pod["terminationGracePeriodSeconds"] >= 30


@pytest.mark.parametrize("name", SETS)
def test_what_is_written_to_is_bounded_and_what_is_mounted_exists(name: str) -> None:
    """Each mount has its volume and each volume a mount; scratch space has a limit; the rest is read-only."""
    objects = render(values(name))
    for workload, pod, container in containers(name):
        kind = "Job" if workload in MIGRATIONS else "StatefulSet"
        claims = named(objects, kind, workload)["spec"].get("volumeClaimTemplates", [])
        volumes = {each["name"]: each for each in pod["volumes"]}
        owned = {each["metadata"]["name"] for each in claims}
        mounts = {each["name"]: each for each in container["volumeMounts"]}
        assert mounts.keys() == volumes.keys() | owned
        for volume in volumes.values():
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"]
            elif not volume["name"].startswith("copy-"):  # outside copies are written, to claims
                assert mounts[volume["name"]]["readOnly"] is True, (workload, volume["name"])


def test_gpus_are_asked_for_as_the_values_say() -> None:
    """GPUs stand in requests and limits alike, under the resource's own name, and only for engines."""
    found = {}
    for workload, _, container in containers("everything"):
        limits, requests = container["resources"]["limits"], container["resources"]["requests"]
        gpus = {key: value for key, value in limits.items() if "/" in key}
        assert gpus == {key: value for key, value in requests.items() if "/" in key}
        found[workload] = gpus
    assert found["demo-gateway"] == {}
    assert found["demo-gateway-mixtral-8x7b-instruct"] == {"nvidia.com/gpu": 2}
    (sliced,) = [gpus for workload, gpus in found.items() if "llama" in workload]
    assert sliced == {"nvidia.com/mig-3g.40gb": 1}


def test_the_record_outlives_the_release() -> None:
    """The server has one process with a volume of its own, which neither deletion nor scaling removes."""
    spec = named(render(values("gpu")), "StatefulSet", "demo-vestry")["spec"]
    assert spec["replicas"] == 1
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_a_change_of_the_settings_restarts_the_server() -> None:
    """The pod template changes with the settings, and only with them."""

    def checksum(given: Object) -> str:
        ((_, template),) = pod_templates(render(given))
        return str(template["metadata"]["annotations"]["checksum/settings"])

    assert checksum({}) == checksum({})
    assert checksum({}) != checksum({"settings": {"log_level": "debug"}})


# Secrets.


@pytest.mark.parametrize("name", SETS)
def test_secrets_are_only_ever_named(name: str) -> None:
    """No Secret is rendered, none is in a ConfigMap or an argument, and no variable holds one in plain text."""
    objects = render(values(name))
    assert of_kind(objects, "Secret") == []
    for each in of_kind(objects, "ConfigMap"):
        assert "binaryData" not in each
        assert not [key for key in each["data"] if not re.search(r"\.(yaml|json|py)$", key)]
        assert not re.search(r"-----BEGIN|vst_[A-Za-z0-9]{8}|[0-9a-f]{64}", json.dumps(each["data"])), each["metadata"]
    for workload, _, container in containers(name):
        for variable in container["env"]:
            if re.search(r"KEY|TOKEN|SECRET|PASSWORD", variable["name"]):
                assert variable["valueFrom"].keys() == {"secretKeyRef"}, workload
        assert not [each for each in container["args"] if re.search("api-key|secret|password", each)]


@pytest.mark.parametrize("name", SETS)
def test_secret_files_are_for_the_server_alone(name: str) -> None:
    """Mounted secrets are readable by root and the pod's group only, and only the listed entries are there, but for
    Secrets of the user's own choice (`server.files`).
    """
    for workload, pod, _ in containers(name):
        volumes = {each["name"]: each for each in pod["volumes"] if each.keys() & {"secret", "projected"}}
        assert all((each.get("secret") or each["projected"])["defaultMode"] == 0o440 for each in volumes.values())
        mounted = {
            name: [each["secret"]]
            if "secret" in each
            else [source["secret"] for source in each["projected"]["sources"]]
            for name, each in volumes.items()
            if not name.startswith("file-")
        }
        serving = workload in {"demo-vestry", "demo-gateway"}
        assert bool(mounted) == (serving or workload in MIGRATIONS)
        assert all(secret["items"] for secrets in mounted.values() for secret in secrets)
        items = [
            (each, secret.get("optional", False)) for secret in mounted.get("secrets", []) for each in secret["items"]
        ]
        demanded = ["key-hash", "engine-key", "audit-key"] if serving else ["key-hash"] if mounted else []
        assert [each["key"] for each, optional in items if not optional] == demanded
        assert [each["key"] for each, optional in items if optional] == (["content-hash"] if serving else [])
        assert all(each["path"] == each["key"] for each, _ in items)


# The network.


def test_by_default_nobody_reaches_anything() -> None:
    """With no values, no pod reaches the server, and the server reaches names only."""
    objects = render({})
    server = pod_of(objects, "demo-vestry")
    for caller in (STRANGER, PORTAL, PROMETHEUS, INTERNET):
        for port in (API, OPS, ADMIN):
            assert not reaches(objects, caller, server, port)
    assert reaches(objects, server, DNS, 53, "UDP")
    assert reaches(objects, server, DNS, 53, "TCP")
    for target in (STRANGER, PROMETHEUS, INTERNET, DNS):
        assert not reaches(objects, server, target, 443)
    assert not reaches(objects, server, INTERNET, 53, "UDP")


def test_a_client_reaches_the_api_and_nothing_else() -> None:
    """The selected application reaches the API's port; neither the operations port nor an engine."""
    objects = render(values("gpu"))
    server, engine = pod_of(objects, "demo-vestry"), pod_of(objects, "demo-vestry-phi-3-mini")
    assert reaches(objects, PORTAL, server, API)
    assert not reaches(objects, PORTAL, server, OPS)
    assert not reaches(objects, PORTAL, server, ADMIN)
    assert not reaches(objects, PORTAL, engine, ENGINE)
    assert not reaches(objects, Pod(PORTAL.labels, "elsewhere"), server, API)
    assert not reaches(objects, STRANGER, server, API)


def test_engines_hear_the_server_and_say_nothing() -> None:
    """Only the server calls an engine; an engine opens no connection at all, to engines and names neither."""
    objects = render(values("gpu"))
    server, engine = pod_of(objects, "demo-vestry"), pod_of(objects, "demo-vestry-phi-3-mini")
    assert reaches(objects, server, engine, ENGINE)
    assert not reaches(objects, server, engine, 22)
    for caller in (STRANGER, PORTAL, PROMETHEUS, INTERNET, engine):
        assert not enters(objects, caller, engine, ENGINE)
    for target in (server, STRANGER, DNS, INTERNET, engine):
        for port, protocol in ((53, "UDP"), (53, "TCP"), (443, "TCP"), (API, "TCP"), (ENGINE, "TCP")):
            assert not leaves(objects, engine, target, port, protocol)


def test_with_everything_on_each_still_reaches_only_its_own() -> None:
    """Prometheus reaches metrics, clients the API, engines names if asked for; nobody else anything."""
    objects = render(values("everything"))
    server, engine = pod_of(objects, "demo-gateway"), pod_of(objects, "demo-gateway-phi-3-mini")
    assert reaches(objects, PROMETHEUS, server, OPS)
    assert reaches(objects, PROMETHEUS, engine, ENGINE)
    assert not reaches(objects, PROMETHEUS, server, API)
    assert not reaches(objects, PROMETHEUS, server, ADMIN)
    bastion = Pod({}, "bastion")
    assert reaches(objects, bastion, server, ADMIN)
    assert not any(reaches(objects, bastion, server, port) for port in (API, OPS))
    assert not reaches(objects, bastion, engine, ENGINE)
    clients = [
        Pod({}, "ingress-nginx"),
        Pod({"app": "notebook"}),
        Pod({}, "elsewhere", "10.20.1.1"),
    ]
    for client in clients:
        assert reaches(objects, client, server, API)
        assert not reaches(objects, client, server, OPS)
        assert not reaches(objects, client, server, ADMIN)
        assert not reaches(objects, client, engine, ENGINE)
    assert not reaches(objects, Pod({}, "elsewhere", "10.20.30.1"), server, API)
    names = Pod({}, "openshift-dns")
    assert reaches(objects, engine, names, 5353, "UDP")
    assert not reaches(objects, engine, INTERNET, 443)
    assert not reaches(objects, server, INTERNET, 443)


def test_a_release_is_closed_to_another() -> None:
    """Pods of a second release in the same namespace are strangers."""
    first, second = render(values("gpu")), render(values("gpu"), "other")
    theirs, ours = pod_of(second, "other-vestry"), pod_of(first, "demo-vestry-phi-3-mini")
    assert not reaches([*first, *second], theirs, ours, ENGINE)


def test_monitoring_reaches_engines_only_when_they_are_scraped() -> None:
    """Peers that may read the operations port do not thereby reach the engines."""
    given = values("gpu")
    given["networkPolicy"]["monitoring"] = [{"namespaceSelector": {}}]
    objects = render(given)
    assert reaches(objects, PROMETHEUS, pod_of(objects, "demo-vestry"), OPS)
    assert not reaches(objects, PROMETHEUS, pod_of(objects, "demo-vestry-phi-3-mini"), ENGINE)


@pytest.mark.parametrize("name", SETS)
def test_no_rule_is_open_to_everybody(name: str) -> None:
    """Every rule names its peers and its ports: an empty list would mean all."""
    policies = of_kind(render(values(name)), "NetworkPolicy")
    assert len(policies) == (4 if "store" in values(name) else 3)
    for policy in policies:
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"][direction]:
                assert rule[peers], policy["metadata"]["name"]
                assert all(rule[peers])
                assert rule["ports"]
    deny = named(render(values(name)), "NetworkPolicy", policies[0]["metadata"]["name"])
    (deny,) = [each for each in policies if each["metadata"]["name"].endswith("-deny")]
    assert (deny["spec"]["ingress"], deny["spec"]["egress"]) == ([], [])
    for _, template in pod_templates(render(values(name))):
        assert selects(deny["spec"]["podSelector"], template["metadata"]["labels"])


def test_administrators_are_let_in_only_where_there_is_an_administration() -> None:
    """Peers alone open nothing while `admin.enabled` is false, and without peers nobody is let in."""
    peers: Object = {"networkPolicy": {"administrators": [{"namespaceSelector": {}}]}}
    on: Object = {"admin": {"enabled": True}}
    for given, reached in ((peers, False), (on, False), ({**peers, **on}, True)):
        objects = render(given)
        assert reaches(objects, STRANGER, pod_of(objects, "demo-vestry"), ADMIN) == reached
        assert not reaches(objects, STRANGER, pod_of(objects, "demo-vestry"), API)


@pytest.mark.parametrize("name", SETS)
def test_the_operations_port_is_behind_a_service_of_its_own(name: str) -> None:
    """The Service and the Ingress that clients use lead to the API's port only; operations stay in the cluster."""
    objects = render(values(name))
    for service in of_kind(objects, "Service"):
        targets = {port["targetPort"] for port in service["spec"]["ports"]}
        if service["metadata"]["name"].endswith("-ops"):
            assert targets == {"ops"}
            assert (service["spec"]["type"], service["spec"]["clusterIP"]) == ("ClusterIP", "None")
        elif service["metadata"]["name"].endswith("-admin"):
            assert (targets, service["spec"]["type"]) == ({"admin"}, "ClusterIP")
        else:
            assert targets in ({"api"}, {"engine"})
    for ingress in of_kind(objects, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                service = named(objects, "Service", backend["name"])
                (port,) = service["spec"]["ports"]
                assert (port["targetPort"], port["port"]) == ("api", backend["port"]["number"])


@pytest.mark.parametrize("name", ["gpu", "everything"])
def test_services_select_their_own_pods(name: str) -> None:
    """Each Service leads to exactly one workload, so that no call for the server lands on an engine."""
    objects = render(values(name))
    for service in of_kind(objects, "Service"):
        chosen = [
            workload
            for workload, template in pod_templates(objects)
            if selects({"matchLabels": service["spec"]["selector"]}, template["metadata"]["labels"])
        ]
        assert chosen == [service["metadata"]["name"].removesuffix("-ops").removesuffix("-admin")]


def test_service_monitors_find_their_services() -> None:
    """Each ServiceMonitor selects Services that have the port it names, in this namespace."""
    objects = render(values("everything"))
    monitors = of_kind(objects, "ServiceMonitor")
    assert len(monitors) == 2
    scraped = []
    for monitor in monitors:
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
        assert monitor["spec"]["namespaceSelector"] == {"matchNames": [NAMESPACE]}
        (endpoint,) = monitor["spec"]["endpoints"]
        for service in of_kind(objects, "Service"):
            if selects(monitor["spec"]["selector"], service["metadata"]["labels"]):
                scraped.append(service["metadata"]["name"])
                assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    wanted = [each["metadata"]["name"] for each in of_kind(objects, "Service")]
    assert sorted(scraped) == sorted(name for name in wanted if name not in {"demo-gateway", "demo-gateway-admin"})


# The schema of the values.


def _schemas(part: Any) -> Iterator[Object]:
    """Every schema in a schema that describes an object by its properties."""
    if isinstance(part, dict):
        if part.keys() & {"properties", "patternProperties"} and not isinstance(part.get("properties"), str):
            yield part
        for value in part.values():
            yield from _schemas(value)
    elif isinstance(part, list):
        for each in part:
            yield from _schemas(each)


def test_the_schema_is_closed_everywhere() -> None:
    """No object in the values, nor in the Kubernetes types among them, takes a name that the schema does not list."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    found = list(_schemas(schema))
    assert len(found) >= 40
    assert [each for each in found if each.get("additionalProperties") is not False] == []
    assert [key for key in chart().values if key not in schema["properties"]] == []
