"""PostgreSQL in the chart: what is refused, what the Job may see and when it runs, and what several replicas bring."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from helm_python import HelmError

from support.charts import (
    Object,
    Pod,
    enters,
    leaves,
    named,
    of_kind,
    pod_of,
    pod_templates,
    reaches,
    render,
    values,
)

SERVER = "demo-vestry"
MIGRATION = "demo-vestry-migration"
HOOK, WEIGHT, KEPT = "helm.sh/hook", "helm.sh/hook-weight", "helm.sh/hook-delete-policy"
DATABASE = Pod({"cnpg.io/cluster": "vestry"}, "databases")
DNS = Pod({"k8s-app": "kube-dns"}, "kube-system")
STRANGER = Pod({"app": "stranger"})


def postgresql(**more: Any) -> Object:
    """Values with PostgreSQL."""
    return {
        "store": {"postgresql": {"existingSecret": "db", **more}},
        "networkPolicy": {"database": {"peers": [{"podSelector": {}}]}},
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"server": {"spread": {"nodes": "always"}}}, "nodes"),
        ({"store": {"postgresql": {"password": "hunter2"}}}, "password"),
        ({"store": {"postgresql": {"entries": {"url": ""}}}}, "url"),
        ({"store": {"postgresql": {"migration": {"downgradeTo": "base"}}}}, "downgradeTo"),
        ({"settings": {"store": {"url": "postgresql://db/vestry"}}}, "url"),
        ({"settings": {"store": {"password": "/run/secrets/x"}}}, "password"),
        ({"settings": {"audit": {"commands": "cli"}}}, "commands"),
        ({"networkPolicy": {"services": [{"port": 443}]}}, "peers"),
        (
            {"server": {"replicas": 2}},
            "2 servers cannot share a SQLite file of keys. Set store.postgresql.existingSecret",
        ),
        ({"store": {"postgresql": {"existingSecret": "db"}}}, "networkPolicy.database.peers"),
        ({"store": {"postgresql": {"caSecret": "db-ca"}}}, "store.postgresql.caSecret: no PostgreSQL is used"),
        (
            {"store": {"postgresql": {"migration": {"downgradeTo": "v1"}}}},
            "store.postgresql.migration.downgradeTo: no PostgreSQL is used",
        ),
        (postgresql(caSecret="a", caConfigMap="b"), "Set one of them"),
        (
            postgresql(migration={"clientCertificateSecret": "a"}),
            "store.postgresql.migration.clientCertificateSecret: the servers have no client certificate",
        ),
    ],
    ids=lambda each: json.dumps(each)[:60] if isinstance(each, dict) else None,
)
def test_what_cannot_work_is_refused(given: Object, said: str) -> None:
    """A wrong, unsafe or half-given value stops the installation, named in the message; so do two servers on SQLite."""
    with pytest.raises(HelmError, match=re.escape(said)):
        render(given)


def test_without_postgresql_nothing_of_it_is_there() -> None:
    """No Job, no policy towards a database, no variable: one server with its SQLite file, as ever."""
    objects = render(values("gpu"))
    assert of_kind(objects, "Job") == []
    assert "database" not in json.dumps(objects)
    assert "VESTRY_STORE" not in json.dumps(objects)
    given = values("gpu") | postgresql(migration={"enabled": False})
    assert of_kind(render(given), "Job") == []


@pytest.mark.parametrize("name", ["replicas", "everything"])
def test_all_that_the_job_needs_is_there_before_it(name: str) -> None:
    """Before an installation nothing of the release exists: account, settings and policy are hooks too, of a lower
    weight. What the Job names beside them is yours.
    """
    objects = render(values(name))
    [job] = of_kind(objects, "Job")
    pod = job["spec"]["template"]["spec"]
    configs = {each["configMap"]["name"] for each in pod["volumes"] if "configMap" in each}
    theirs = values(name)["store"]["postgresql"].get("caConfigMap")
    own = [("ServiceAccount", pod["serviceAccountName"]), *(("ConfigMap", each) for each in configs - {theirs})]
    for kind, wanted in (*own, ("NetworkPolicy", job["metadata"]["name"])):
        annotations = named(objects, kind, wanted)["metadata"]["annotations"]
        assert annotations[HOOK] == job["metadata"]["annotations"][HOOK] == "pre-install,pre-upgrade,pre-rollback"
        assert int(annotations[WEIGHT]) < int(job["metadata"]["annotations"][WEIGHT])
        assert annotations[KEPT] == "before-hook-creation,hook-succeeded"
    assert job["metadata"]["annotations"][KEPT] == "before-hook-creation"
    assert [each["metadata"]["name"] for each in objects if HOOK in each["metadata"].get("annotations", {})] == [
        job["metadata"]["name"]
    ] * 4


@pytest.mark.parametrize("seconds", [10, 270, 311, 600, 631, 1000, 3600, 86400])
def test_the_job_ends_with_its_time(seconds: int) -> None:
    """Settings that are refused (exit status 2) end it at once, an unreachable PostgreSQL when its time is over and not
    before: the pauses between tries alone (Kubernetes: Job, pod backoff failure policy) last as long.
    """
    spec = named(render(postgresql(migration={"seconds": seconds})), "Job", MIGRATION)["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    [rule] = spec["podFailurePolicy"]["rules"]
    [container] = spec["template"]["spec"]["containers"]
    assert rule == {
        "action": "FailJob",
        "onExitCodes": {"containerName": container["name"], "operator": "In", "values": [2]},
    }
    assert spec["activeDeadlineSeconds"] == seconds
    assert sum(min(10 * 2**number, 360) for number in range(spec["backoffLimit"])) >= seconds


def test_the_job_ends_before_helm_stops_waiting() -> None:
    """Helm's own time is five minutes, unless told otherwise."""
    assert named(render(postgresql()), "Job", MIGRATION)["spec"]["activeDeadlineSeconds"] < 300


def test_the_job_reaches_the_database_alone() -> None:
    """Before the release's own policies exist, and after: PostgreSQL and names, and nobody reaches it."""
    objects = render(values("replicas"))
    job = pod_of(objects, MIGRATION)
    hooks = [each for each in objects if HOOK in each["metadata"].get("annotations", {})]
    for policies in (hooks, objects):
        assert leaves(policies, job, DATABASE, 5432)
        assert leaves(policies, job, DNS, 53, "UDP")
        for target, port in ((STRANGER, 5432), (DATABASE, 22), (pod_of(objects, SERVER), 8080)):
            assert not leaves(policies, job, target, port)
        for port in (8080, 8081, 8082):
            assert not enters(policies, STRANGER, job, port)


def test_servers_reach_the_database_and_what_is_listed() -> None:
    """And engines do not."""
    objects = render(values("replicas"))
    server, engine = pod_of(objects, SERVER), pod_of(objects, f"{SERVER}-phi-3-mini")
    service = Pod({}, "elsewhere", "10.30.0.5")
    assert reaches(objects, server, DATABASE, 5432)
    assert reaches(objects, server, service, 443)
    assert not reaches(objects, server, service, 80)
    assert not reaches(objects, server, Pod({}, "elsewhere", "10.30.0.6"), 443)
    assert not reaches(objects, server, Pod({"cnpg.io/cluster": "other"}, "databases"), 5432)
    assert not leaves(objects, engine, DATABASE, 5432)


@pytest.mark.parametrize("name", ["replicas", "everything"])
def test_nothing_of_the_database_stands_in_a_configmap(name: str) -> None:
    """Address, user and password come by reference: the settings hold paths and bounds only."""
    objects = render(values(name))
    for each in of_kind(objects, "ConfigMap"):
        assert "postgresql://" not in json.dumps(each)
        assert values(name)["store"]["postgresql"]["existingSecret"] not in json.dumps(each["data"])
    for _, template in pod_templates(objects):
        for container in template["spec"]["containers"]:
            for variable in container["env"]:
                if variable["name"].startswith("VESTRY_STORE__"):
                    assert variable["valueFrom"].keys() == {"secretKeyRef"}


def test_what_several_replicas_bring() -> None:
    """Spread over nodes and zones, one at a time away, a pause between two of them; the engines are shared, and each
    pod has a volume, a log, and a log of commands of its own name.
    """
    objects = render(values("replicas"))
    servers = named(objects, "StatefulSet", SERVER)["spec"]
    assert (servers["replicas"], servers["updateStrategy"]) == (2, {"type": "RollingUpdate"})
    pod = servers["template"]["spec"]
    [container] = pod["containers"]
    assert servers["minReadySeconds"] == container["lifecycle"]["preStop"]["sleep"]["seconds"] > 0
    spread = {each["topologyKey"]: each for each in pod["topologySpreadConstraints"]}
    assert {key: each["whenUnsatisfiable"] for key, each in spread.items()} == {
        "kubernetes.io/hostname": "DoNotSchedule",
        "topology.kubernetes.io/zone": "ScheduleAnyway",
    }
    budget = named(objects, "PodDisruptionBudget", SERVER)["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    for selector in (budget["selector"], *(each["labelSelector"] for each in spread.values())):
        assert selector["matchLabels"] == servers["selector"]["matchLabels"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    assert variables["VESTRY_AUDIT__ORIGIN"] == "$(POD_NAME)"
    assert variables["VESTRY_AUDIT__COMMANDS"] == "$(POD_NAME)-cli"
    assert "engines_shared: true" in named(objects, "ConfigMap", SERVER)["data"]["vestry.yaml"]
    assert "engines_shared: true" not in named(render(values("gpu")), "ConfigMap", SERVER)["data"]["vestry.yaml"]
    alone = render(values("gpu"))
    assert "topologySpreadConstraints" not in named(alone, "StatefulSet", SERVER)["spec"]["template"]["spec"]
