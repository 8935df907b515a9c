"""Further files that the settings name: mounted into the servers' pods, and into nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from helm_python import HelmError

from support.charts import Object, named, pod_templates, render, values

SERVER = "demo-vestry"


def rendered(files: dict[str, Any]) -> list[Object]:
    """The GPU values with these files."""
    return render(values("gpu") | {"server": {"files": files}})


def test_each_kind_is_a_folder_of_its_own() -> None:
    """A Secret, a ConfigMap, and a token of the pod's own account with the cluster's authority: read-only, and a secret
    is for the server's own group alone.
    """
    token = {"audience": "https://kubernetes.default.svc", "expirationSeconds": 900}
    objects = rendered(
        {"siem": {"secret": "a"}, "company-ca": {"configMap": "b"}, "cluster": {"serviceAccountToken": token}}
    )
    pod = named(objects, "StatefulSet", SERVER)["spec"]["template"]["spec"]
    volumes = {each["name"]: each for each in pod["volumes"] if each["name"].startswith("file-")}
    [server] = pod["containers"]
    mounts = {each["mountPath"]: each for each in server["volumeMounts"]}
    for name in ("siem", "company-ca", "cluster"):
        assert mounts[f"/run/files/{name}"] == {
            "name": f"file-{name}",
            "mountPath": f"/run/files/{name}",
            "readOnly": True,
        }
    assert volumes["file-siem"]["secret"] == {"secretName": "a", "defaultMode": 0o440}
    assert volumes["file-company-ca"]["configMap"] == {"name": "b"}
    projected = volumes["file-cluster"]["projected"]
    assert projected["sources"] == [
        {"serviceAccountToken": {"path": "token", **token}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    ]
    assert projected["defaultMode"] == 0o440
    assert pod["automountServiceAccountToken"] is False


def test_a_token_needs_nothing_said() -> None:
    """Without an audience the token is for the API server, and lives an hour."""
    objects = rendered({"cluster": {"serviceAccountToken": {}}})
    [volume] = [
        each
        for each in named(objects, "StatefulSet", SERVER)["spec"]["template"]["spec"]["volumes"]
        if each["name"] == "file-cluster"
    ]
    assert volume["projected"]["sources"][0] == {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}


def test_engines_and_jobs_see_none_of_it() -> None:
    """Only the servers' pods have the files."""
    given = values("everything")
    assert given["server"]["files"]
    having = [
        name
        for name, template in pod_templates(render(given))
        if any(each["name"].startswith("file-") for each in template["spec"].get("volumes", []))
    ]
    assert len(having) == 1
    assert len(list(pod_templates(render(given)))) > 2


@pytest.mark.parametrize(
    "files",
    [
        {"a": {}},
        {"a": {"secret": "x", "configMap": "y"}},
        {"a": {"hostPath": "/etc"}},
        {"a": {"secret": ""}},
        {"A_B": {"secret": "x"}},
        {"../vestry": {"secret": "x"}},
        {"a": {"serviceAccountToken": {"expirationSeconds": 60}}},
        {"a": {"serviceAccountToken": {"path": "/etc/passwd"}}},
    ],
    ids=str,
)
def test_anything_else_is_refused(files: dict[str, Any]) -> None:
    """Neither none nor two, no path of the node, no name that leads elsewhere."""
    with pytest.raises(HelmError, match="files"):
        rendered(files)
