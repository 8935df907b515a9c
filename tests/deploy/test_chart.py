"""The chart lints, renders and validates with no values, with a GPU model, with everything; and fits the program."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import HelmError
from helm_python.chart import lint, package

from support.charts import (
    CHART,
    NAMESPACE,
    RELEASE,
    ROOT,
    SETS,
    Object,
    chart,
    named,
    of_kind,
    pod_templates,
    render,
    render_files,
    selects,
    validate,
    values,
)
from support.launches import OWN_VARIABLES, planned
from vestry.configuration.inspection import inspect
from vestry.configuration.reading import load
from vestry.models import catalog, environment, launch
from vestry.models.catalog import Device
from vestry.models.chosen import served
from vestry.settings.tree import Settings

SERVER = f"{RELEASE}-vestry"
LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def settings_of(objects: list[Object], folder: Path, server: str = SERVER) -> Settings:
    """The settings that the server would read from the rendered ConfigMap, with the pod's environment."""
    mounted = named(objects, "StatefulSet", server)["spec"]["template"]["spec"]["volumes"]
    (source,) = [each["configMap"] for each in mounted if each["name"] == "settings"]
    data = named(objects, "ConfigMap", source["name"])["data"]
    for item in source["items"]:
        path = folder / item["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data[item["key"]])
    return load(folder / "vestry.yaml", {"VESTRY_AUDIT__ORIGIN": f"{server}-0"})


def server_of(objects: list[Object]) -> str:
    """The name of the server's StatefulSet."""
    (name,) = [
        name
        for name, template in pod_templates(objects)
        if template["metadata"]["labels"]["app.kubernetes.io/component"] == "server"
    ]
    return name


# Lint, render, validate.


@pytest.mark.parametrize("name", SETS)
def test_lint_has_nothing_to_say(name: str) -> None:
    """Helm's linter, with warnings as errors, accepts every value set."""
    report = lint(CHART, values(name), strict=True, namespace=NAMESPACE)
    assert report["errors"] == []
    assert [each for each in report["messages"] if each["severity"] > 1] == []


@pytest.mark.parametrize(
    ("name", "version"),
    [
        *((name, "1.30") for name in ("default", "gpu", "replicas")),
        ("everything", "1.33"),
        *((name, "1.37") for name in SETS),
    ],
)
def test_every_object_is_one_that_kubernetes_knows(name: str, version: str) -> None:
    """Each object validates, closed, against the oldest Kubernetes that the chart allows and the newest."""
    objects = render(values(name))
    assert len(objects) >= 7
    for each in objects:
        validate(each, version)
    identities = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(identities)) == len(identities)


def test_the_oldest_version_tested_is_the_one_demanded() -> None:
    """Chart.yaml demands what the schemas above were checked for."""
    assert chart().metadata["kubeVersion"] == ">=1.30.0-0"


def test_everything_is_really_on() -> None:
    """The set `everything` leaves no template empty, so that each is validated above."""
    empty = [name for name, text in render_files(values("everything")).items() if not text.strip()]
    assert empty == []
    kinds = {each["kind"] for each in render(values("everything"))}
    assert kinds >= {"Ingress", "ServiceMonitor", "PodDisruptionBudget", "NetworkPolicy", "StatefulSet"}


def test_one_resource_a_file() -> None:
    """Each template holds objects of one kind for one purpose."""
    for name, text in render_files(values("everything")).items():
        if name != "NOTES.txt":
            kinds = [each["kind"] for each in yaml.safe_load_all(text) if each]
            assert len(set(kinds)) == 1, name
            repeated = name.startswith("engine-") and len(set(kinds)) == 1
            assert repeated or len(kinds) == 1, name


def test_no_values_install_everything_and_start_nothing(tmp_path: Path) -> None:
    """Without a model the one workload has no process (it would refuse to start), and the notes say so."""
    objects = render({})
    assert [name for name, _ in pod_templates(objects)] == [SERVER]
    assert named(objects, "StatefulSet", SERVER)["spec"]["replicas"] == 0
    settings = settings_of(objects, tmp_path)
    assert settings.models == {}
    assert [fault for fault in inspect(settings) if "no model" in fault.what]
    assert "NO MODEL IS SERVED YET" in render_files({})["NOTES.txt"]


@pytest.mark.parametrize("crl", [True, False])
def test_files_of_client_certificates_lie_where_the_settings_say(crl: bool, tmp_path: Path) -> None:
    """Authorities, and lists of revoked certificates if asked for, are mounted at the paths of the settings."""
    given = values("everything")
    given.pop("nameOverride")
    given["server"]["tls"]["clientCrl"] = crl
    objects = render(given)
    settings = settings_of(objects, tmp_path)
    tls = settings.server.tls
    assert tls is not None
    pod = named(objects, "StatefulSet", SERVER)["spec"]["template"]["spec"]
    [volume] = [each for each in pod["volumes"] if each["name"] == "client-ca"]
    mounts = [each for part in pod["containers"] for each in part["volumeMounts"] if each["name"] == "client-ca"]
    files = {f"{mounts[0]['mountPath']}/{item['path']}" for item in volume["secret"]["items"]}
    assert files == {str(each) for each in (tls.client_ca, tls.client_crl) if each is not None}
    assert (tls.client_crl is not None) == crl
    assert settings.server.sees_certificates


@pytest.mark.parametrize("release", ["a", "vestry", "x" * 53])
def test_names_fit_whatever_the_release_is_called(release: str) -> None:
    """Names and label values keep Kubernetes' limits, for long and short releases and awkward model names."""
    given = values("everything")
    given.pop("nameOverride")
    model = given["models"]["phi-3-mini"]
    given["models"] |= {"A" * 128: model, "a.b": model, "a-b": model, "ops": model}
    objects = render(given, release)
    for each in objects:
        name = each["metadata"]["name"]
        assert LABEL.fullmatch(name), name
        assert each["kind"] != "StatefulSet" or len(name) <= 52
        for value in each["metadata"]["labels"].values():
            assert len(value) <= 63
    for kind in ("StatefulSet", "Service"):
        names = [each["metadata"]["name"] for each in of_kind(objects, kind)]
        assert len(set(names)) == len(names)
        assert len(names) >= 9


@pytest.mark.parametrize("release", ["1-ward", "north.ward", f"{'x' * 38}--y"])
def test_a_release_after_which_no_service_can_be_named_is_refused(release: str) -> None:
    """Helm takes digits first and dots; Kubernetes would refuse the Services when other objects are there already."""
    with pytest.raises(HelmError, match="Set fullnameOverride, or choose another release name"):
        render(values("gpu"), release)
    assert render(values("gpu") | {"fullnameOverride": "ward"}, release)


def test_packaged_it_is_the_same(tmp_path: Path) -> None:
    """The packaged chart holds all that the folder's templates read, and none of the test values."""
    with type(chart()).load(package(CHART, destination=tmp_path)) as packaged:
        given = values("everything")
        assert packaged.render(values=given, name=RELEASE, namespace=NAMESPACE) == chart().render(
            values=given, name=RELEASE, namespace=NAMESPACE
        )
        assert not [each for each in packaged.files if each["name"].startswith("ci/")]


def test_it_can_be_the_dependency_of_another_chart(tmp_path: Path) -> None:
    """With its values under its name; the `global` that Helm adds then, and a parent may fill, changes nothing."""
    parent = {"apiVersion": "v2", "name": "house", "version": "1.0.0"}
    dependency = {"name": "vestry", "version": chart().version}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump({**parent, "dependencies": [dependency]}))
    shutil.copytree(CHART, tmp_path / "charts" / "vestry")
    given = values("gpu")
    with type(chart()).load(tmp_path) as house:
        rendered = house.render(values={"vestry": given, "global": {"a": 1}}, name=RELEASE, namespace=NAMESPACE)
    found = {path.rsplit("/", 1)[1]: text for path, text in rendered.items()}
    assert {name: text for name, text in found.items() if name != "NOTES.txt"} == {
        name: text for name, text in render_files(given).items() if name != "NOTES.txt"
    }


def test_versions_agree() -> None:
    """Chart, application and project carry one version; the engine's image is the version that the locks name."""
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project is not None
    assert (chart().version, chart().metadata["appVersion"]) == (project[1], project[1])
    assert chart().values["engine"]["image"]["tag"] == "v" + environment.locked_version("gpu")


# Values that are refused.


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"servr": {}}, "servr"),
        ({"server": {"replicas": 0}}, "replicas"),
        ({"server": {"image": "x"}}, "image"),
        ({"image": {"tag": "latest"}}, "tag"),
        ({"image": {"tag": "a b"}}, "tag"),
        ({"image": {"digest": "sha256:12"}}, "digest"),
        ({"secrets": {"keyHash": "c2VjcmV0"}}, "keyHash"),
        ({"secrets": {"existingSecret": ""}}, "existingSecret"),
        ({"podSecurity": {"runAsUser": 0}}, "runAsUser"),
        ({"settings": {"server": {"ops_host": "0.0.0.0"}}}, "ops_host"),
        ({"settings": {"models": {"a": {}}}}, "models"),
        ({"settings": {"audit": {"origin": "x"}}}, "origin"),
        ({"settings": {"door": {"headers": 1}}}, "headers"),
        ({"settings": {"door": {"headers": "100"}}}, "headers"),
        ({"settings": {"tenants": {"Radiology": {}}}}, "Radiology"),
        ({"settings": {"tenants": {"radiology": {"model": ["*"]}}}}, "model"),
        ({"models": {"-x": {"volume": {"hostPath": {"path": "/srv/m"}}}}}, "-x"),
        ({"models": {"phi-3-mini-4k-instruct": {}}}, "volume"),
        ({"models": {"phi-3-mini-4k-instruct": {"volume": {}}}}, "volume"),
        (
            {
                "models": {
                    "phi-3-mini-4k-instruct": {
                        "volume": {"hostPath": {"path": "/a"}, "persistentVolumeClaim": {"claimName": "a"}}
                    }
                }
            },
            "volume",
        ),
        ({"models": {"phi-3-mini-4k-instruct": {"volume": {"image": {"reference": "models/x"}}}}}, "reference"),
        ({"engine": {"arguments": {"seed": 1}}}, "arguments"),
        ({"models": {"a": {"volume": {"hostPath": {"path": "/a"}}, "arguments": {"max-model-len": -1}}}}, "-len"),
        ({"models": {"a": {"volume": {"hostPath": {"path": "/a"}}, "arguments": {"seed": -3}}}}, "seed"),
        ({"networkPolicy": {"clients": [{}]}}, "clients"),
        ({"networkPolicy": {"clients": [{"podSelektor": {}}]}}, "podSelektor"),
        ({"networkPolicy": {"clients": {"podSelector": {}}}}, "clients"),
        ({"networkPolicy": {"dns": {"peers": []}}}, "peers"),
        ({"server": {"affinity": {"nodeAfinity": {}}}}, "nodeAfinity"),
        ({"server": {"podLabels": {"app.kubernetes.io/component": "engine"}}}, "app.kubernetes.io/component"),
        ({"server": {"resources": {"limits": {"memory": "lots"}}}}, "memory"),
        ({"ingress": {"hosts": ["https://vestry.example"]}}, "hosts"),
    ],
    ids=lambda each: json.dumps(each)[:60] if isinstance(each, dict) else None,
)
def test_the_schema_refuses(given: Object, said: str) -> None:
    """A misspelt, unknown or unsafe value stops the installation, and the message names it."""
    with pytest.raises(HelmError, match=re.escape(said)):
        render(given)


def phi(**more: Any) -> Object:
    """A model's values."""
    return {"volume": {"persistentVolumeClaim": {"claimName": "phi"}}, "catalog": "phi-3-mini-4k-instruct", **more}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"models": {"gpt": {**phi(), "catalog": "gpt-2"}}}, "Set models.gpt.catalog to one of: llama-3-8b-instruct"),
        ({"models": {"m": {**phi(), "catalog": "mixtral-8x7b-instruct", "gpus": 0}}}, "runs on GPUs only"),
        *(
            ({"models": {"phi": phi(arguments={"max-model-len": value})}}, f"max-model-len: {said}")
            for value, said in (
                (8192, "8192 is not from 1 to 4096"),
                ("8192", "8192 is not from 1 to 4096"),
                (0, "0 is not from 1"),
                ("0", "0 is not from 1"),
                ("4k", "4k is not from 1"),
                (2048.5, "2048.5 is not from 1"),
                ("99999999999999999999", "99999999999999999999 is not from 1"),
            )
        ),
        ({"models": {"phi": phi(manifest="{}")}}, "models.phi.manifest"),
        ({"models": {"phi": phi(manifest="nonsense")}}, "models.phi.manifest"),
        ({"settings": {"tenants": {"default": {"models": ["phi"]}}}}, "settings.tenants.default.models"),
        ({"settings": {"tenants": {"default": None}}}, "settings.tenants: there is no tenant"),
        ({"settings": {"tenants": None}}, "settings.tenants: there is no tenant"),
        ({"ingress": {"enabled": True, "hosts": ["a.example"]}}, "networkPolicy.clients"),
        ({"ingress": {"enabled": True}, "networkPolicy": {"enabled": False}}, "ingress.hosts"),
        *(
            (
                {
                    "ingress": {"enabled": True, "hosts": ["a.example", host]},
                    "settings": {"server": {"allowed_hosts": ["A.example", "other.example"]}},
                    "networkPolicy": {"enabled": False},
                },
                f"every call to {host}, which is not in settings.server.allowed_hosts",
            )
            for host in ("b.example", "*.a.example")
        ),
        ({"server": {"tls": {"clientCertificates": "required"}}}, "client certificates are asked for"),
        ({"server": {"tls": {"clientCrl": True}}}, "server.tls.clientCrl"),
        ({"monitoring": {"serviceMonitor": {"enabled": True}}}, "networkPolicy.monitoring"),
        *(
            (
                {"monitoring": {"serviceMonitor": {"enabled": True, **times}}, "networkPolicy": {"enabled": False}},
                "is longer than the interval",
            )
            for times in (
                {"interval": "5s"},
                {"interval": "900ms", "scrapeTimeout": "1s"},
                {"interval": "1m", "scrapeTimeout": "61s"},
            )
        ),
        ({"fullnameOverride": "9lives"}, "fullnameOverride"),
    ],
    ids=lambda each: json.dumps(each)[:60] if isinstance(each, dict) else None,
)
def test_values_that_cannot_work_are_refused(given: Object, said: str) -> None:
    """What would only fail in the cluster fails before, in a sentence that names the value and the mend."""
    with pytest.raises(HelmError, match=re.escape(said)):
        render(given)


@pytest.mark.parametrize("argument", ["trust-remote-code", "api-key", "host", "load-format", "enable-lora", "config"])
def test_unsafe_arguments_of_vllm_are_refused(argument: str) -> None:
    """The chart takes the arguments that `vestry engine` takes, and no other."""
    with pytest.raises(HelmError, match=argument):
        render({"models": {"phi": phi(arguments={argument: "x"})}})


def test_every_fault_is_named_at_once() -> None:
    """Two faults in different places are both in the message."""
    with pytest.raises(HelmError) as refused:
        render({"models": {"phi": phi(catalog="phi")}, "ingress": {"enabled": True}})
    assert "models.phi" in str(refused.value)
    assert "ingress.hosts" in str(refused.value)


# The chart and the program.


def test_what_the_chart_carries_is_what_the_program_says() -> None:
    """Schema, catalog, guard and dashboard in the chart are those of this working tree."""
    script = ROOT / "deploy" / "sync_chart.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), "run: python deploy/sync_chart.py"


def test_the_default_settings_are_the_programs_own(tmp_path: Path) -> None:
    """What values.yaml writes out under `settings` changes nothing: it shows the defaults."""
    found = settings_of(render({}), tmp_path)
    fresh = Settings()
    for section in ("door", "bounds", "relay", "store", "tenants", "log_level"):
        assert getattr(found, section) == getattr(fresh, section), section
    ours = {"host", "ops_host"}
    assert found.server.model_dump(exclude=ours) == fresh.server.model_dump(exclude=ours)
    assert found.audit.model_dump(exclude={"origin"}) == fresh.audit.model_dump(exclude={"origin"})
    assert found.audit.origin == f"{SERVER}-0"


@pytest.mark.parametrize("name", SETS)
def test_the_server_accepts_its_settings(name: str, tmp_path: Path) -> None:
    """The rendered file loads through the program's own reader, and every model in it can be served."""
    objects = render(values(name))
    settings = settings_of(objects, tmp_path, server_of(objects))
    models = served(settings)
    assert [model.name for model in models] == sorted(values(name).get("models", {}))
    template = dict(pod_templates(objects))[server_of(objects)]
    (container,) = template["spec"]["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    admin = {"admin": settings.server.admin_port} if values(name).get("admin", {}).get("enabled") else {}
    assert ports == {"api": settings.server.port, "ops": settings.server.ops_port} | admin
    assert (settings.server.admin_host == "127.0.0.1") == (not admin)
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    tls = settings.server.tls
    wanted = [settings.state.parent, settings.secrets, *([tls.certificate.parent, tls.key.parent] if tls else [])]
    assert {str(each) for each in wanted} <= mounts
    grace = template["spec"]["terminationGracePeriodSeconds"]
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert grace >= waits + settings.server.drain_seconds + 10


def test_a_manifest_tells_the_record_which_weights_answer(tmp_path: Path) -> None:
    """The manifest given for a model is where the server reads its weights' digest."""
    settings = settings_of(render(values("everything")), tmp_path, f"{RELEASE}-gateway")
    path = settings.models["phi-3-mini"].path
    assert path is not None
    here = tmp_path / path.relative_to("/etc/vestry")
    given = {**settings.models, "phi-3-mini": settings.models["phi-3-mini"].model_copy(update={"path": here})}
    digests = {each.name: each.weights_digest for each in served(settings.model_copy(update={"models": given}))}
    assert digests["phi-3-mini"] == "sha256:bb"
    assert digests["Clinic/Llama.3"] == ""


@pytest.mark.parametrize("name", ["gpu", "everything"])
def test_replicas_are_the_engines_stable_names(name: str, tmp_path: Path) -> None:
    """Each URL in the settings is a pod of an engine's StatefulSet, in its headless Service, on its port."""
    objects = render(values(name))
    domain = values(name).get("clusterDomain", "cluster.local")
    pods = {}
    for workload in of_kind(objects, "StatefulSet"):
        template, spec = workload["spec"]["template"], workload["spec"]
        service = named(objects, "Service", spec["serviceName"])
        assert service["spec"]["clusterIP"] == "None"
        assert selects({"matchLabels": service["spec"]["selector"]}, template["metadata"]["labels"])
        (container,) = template["spec"]["containers"]
        for ordinal in range(spec["replicas"]):
            host = f"{workload['metadata']['name']}-{ordinal}.{spec['serviceName']}.{NAMESPACE}.svc.{domain}"
            pods[f"http://{host}:{container['ports'][0]['containerPort']}"] = container
    settings = settings_of(objects, tmp_path, server_of(objects))
    assert settings.models
    for model, wanted in settings.models.items():
        assert len(wanted.replicas) == values(name)["models"][model].get("replicas", 1)
        for replica in wanted.replicas:
            arguments = pods.pop(replica.url)["args"]
            assert arguments[arguments.index("--served-model-name") + 1] == model
    assert [url for url in pods if not url.startswith(f"http://{server_of(objects)}-")] == []


@pytest.mark.parametrize("entry", sorted(catalog.entries()))
@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_engines_start_as_the_program_starts_them(entry: str, gpus: int, tmp_path: Path) -> None:
    """For each catalog entry, vLLM's arguments and environment in the pod are exactly those of `vestry engine`."""
    device: Device = "gpu" if gpus else "cpu"
    if device not in catalog.entry(entry).devices:
        with pytest.raises(HelmError, match="GPUs only"):
            render({"models": {"served": phi(catalog=entry, gpus=gpus)}})
        return
    arguments = {"max-num-seqs": 64, "gpu-memory-utilization": 0.85, "max-model-len": 1024, "enforce-eager": True}
    given = {"served": phi(catalog=entry, gpus=gpus, arguments=arguments, shutdownSeconds=77)}
    objects = render({"models": given})
    settings = settings_of(objects, tmp_path / "settings")
    wanted, surroundings = planned(settings, "served", device, tmp_path, host="10.1.2.3")
    (container,) = dict(pod_templates(objects))[f"{SERVER}-served"]["spec"]["containers"]
    found = [*container["command"], *(each.replace("$(POD_IP)", "10.1.2.3") for each in container["args"])]
    assert found == ["python3", *wanted]
    variables = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    assert {name: text for name, text in variables.items() if name not in OWN_VARIABLES} == surroundings
    (key,) = [each for each in container["env"] if each["name"] == launch.KEY]
    assert key["valueFrom"]["secretKeyRef"] == {"name": "vestry-secrets", "key": "engine-key"}
    assert {"/model", "/cache", "/guard"} <= {each["mountPath"] for each in container["volumeMounts"]}


def test_several_gpus_split_the_model_unless_told_otherwise() -> None:
    """A pod with two GPUs uses both; an explicit parallelism stands."""

    def arguments(**more: Any) -> list[str]:
        objects = render({"models": {"served": phi(gpus=2, **more)}})
        found: list[str] = dict(pod_templates(objects))[f"{SERVER}-served"]["spec"]["containers"][0]["args"]
        return found

    assert arguments()[-2:] == ["--tensor-parallel-size", "2"]
    assert "--tensor-parallel-size" not in arguments(arguments={"pipeline-parallel-size": 2})
    assert arguments(arguments={"tensor-parallel-size": 1})[-2:] == ["--tensor-parallel-size", "1"]


def test_what_a_model_sets_for_itself_wins_even_if_it_is_nothing() -> None:
    """`false`, 0 and empty lists of one model override the engines' common values; the rest of a group stays."""
    given = {
        "engine": {"podDisruptionBudget": {"enabled": True, "maxUnavailable": 2}, "gpus": 4, "image": {"tag": "v1"}},
        "models": {
            "one": phi(gpus=0, tolerations=[], podDisruptionBudget={"enabled": False}),
            "two": phi(image={"repository": "mirror/vllm"}, podDisruptionBudget={"maxUnavailable": 0}),
        },
    }
    objects = render(given)
    templates = dict(pod_templates(objects))
    one, two = (templates[f"{SERVER}-{name}"]["spec"] for name in ("one", "two"))
    assert "nvidia.com/gpu" not in one["containers"][0]["resources"]["limits"]
    assert "tolerations" not in one
    assert one["containers"][0]["image"] == "vllm/vllm-openai:v1"
    assert two["containers"][0]["image"] == "mirror/vllm:v1"
    assert two["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 4
    budgets = of_kind(objects, "PodDisruptionBudget")
    allowed = {each["metadata"]["name"]: each["spec"]["maxUnavailable"] for each in budgets}
    assert allowed == {SERVER: 1, f"{SERVER}-two": 0}
    # A server or an engine that is not ready does not keep a node from being drained.
    assert {each["spec"]["unhealthyPodEvictionPolicy"] for each in budgets} == {"AlwaysAllow"}


def test_the_dashboard_is_carried_whole() -> None:
    """The ConfigMap's JSON is the dashboard of deploy/grafana, untouched by the template language."""
    config = named(render(values("everything")), "ConfigMap", f"{RELEASE}-gateway-dashboard")
    carried = json.loads(config["data"]["vestry.json"])
    assert carried == json.loads((ROOT / "deploy" / "grafana" / "vestry.json").read_text())
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_alert_rules_are_carried_whole() -> None:
    """The PrometheusRule's groups are those of deploy/prometheus, with Prometheus' own templates in them."""
    rule = named(render(values("everything")), "PrometheusRule", f"{RELEASE}-gateway")
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert of_kind(render(values("gpu")), "PrometheusRule") == []


@pytest.mark.parametrize("name", SETS)
def test_the_notes_name_what_there_is(name: str) -> None:
    """Every workload, pod, Secret and tenant in the notes' commands exists under that name."""
    objects = render(values(name))
    notes = render_files(values(name))["NOTES.txt"]
    workloads = [each["metadata"]["name"] for each in of_kind(objects, "StatefulSet")]
    running = sorted(workloads) if values(name) else []
    assert sorted(re.findall(r"statefulset/(\S+)", notes)) == running
    assert set(re.findall(r"(\S+)-0 (?:--|8080:8080)", notes)) == ({server_of(objects)} if running else set())
    secret = values(name).get("secrets", {}).get("existingSecret", "vestry-secrets")
    assert f"create secret generic {secret} --namespace {NAMESPACE}" in notes
    hosts = values(name).get("settings", {}).get("server", {}).get("allowed_hosts", [])
    assert ('once settings.server.allowed_hosts has "' in notes) == bool(hosts)
    assert ("--tenant default" in notes) == bool(running)
    assert (f"{server_of(objects)}.{NAMESPACE}.svc." in notes) == bool(running)
