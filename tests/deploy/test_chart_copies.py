"""Outside copies that are directories: on volumes of their own, in the servers' pods and in nothing else."""

from __future__ import annotations

import re

import pytest
from helm_python import HelmError

from support.charts import Object, named, of_kind, pod_templates, render, validate, values

SERVER = "demo-vestry"


def rendered(volumes: Object, *paths: str) -> list[Object]:
    """The GPU values with these volumes, and a copy in each of these places."""
    copies = [{"kind": "directory", "name": f"c{number}", "path": path} for number, path in enumerate(paths)]
    return render(values("gpu") | {"server": {"copies": volumes}, "settings": {"audit": {"copies": copies}}})


def test_a_claim_that_is_there_and_one_that_is_made() -> None:
    """Both are mounted, writable, where the settings have the copies; what is made outlives the release."""
    made = {"size": "2Gi", "storageClassName": "slow", "accessMode": "ReadWriteMany"}
    objects = rendered(
        {"vault": {"existingClaim": "audit-vault"}, "shelf": made}, "/mnt/copies/vault/vestry", "/mnt/copies/shelf"
    )
    pod = named(objects, "StatefulSet", SERVER)["spec"]["template"]["spec"]
    volumes = {each["name"]: each.get("persistentVolumeClaim") for each in pod["volumes"]}
    assert volumes["copy-vault"] == {"claimName": "audit-vault"}
    assert volumes["copy-shelf"] == {"claimName": f"{SERVER}-copy-shelf"}
    [server] = pod["containers"]
    mounts = [each for each in server["volumeMounts"] if each["name"].startswith("copy-")]
    assert mounts == [{"name": f"copy-{name}", "mountPath": f"/mnt/copies/{name}"} for name in ("shelf", "vault")]

    [claim] = of_kind(objects, "PersistentVolumeClaim")
    validate(claim, "1.37")
    assert claim["metadata"]["name"] == f"{SERVER}-copy-shelf"
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "slow",
        "resources": {"requests": {"storage": "2Gi"}},
    }


def test_a_size_alone_makes_a_claim() -> None:
    """Of the cluster's own storage class, for one server."""
    [claim] = of_kind(rendered({"shelf": {"size": "1Gi"}}, "/mnt/copies/shelf/"), "PersistentVolumeClaim")
    assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}


def test_engines_and_jobs_see_none_of_it() -> None:
    """Only the servers' pods have the volumes."""
    having = [
        name
        for name, template in pod_templates(render(values("everything")))
        if any(each["name"].startswith("copy-") for each in template["spec"].get("volumes", []))
    ]
    assert having == ["demo-gateway"]


@pytest.mark.parametrize(
    "path",
    [
        *("/mnt/vault", "/mnt/copies", "/mnt/copies/", "/mnt/copies/valt", "/mnt/copies/vault2", "/var/lib/vestry/c"),
        *("/mnt/copies/vault/..", "/mnt/copies/vault/../../../var/lib/vestry/c"),
    ],
)
def test_a_copy_that_is_on_no_volume_is_refused(path: str) -> None:
    """Its folder would be missing, or on the record's own volume."""
    said = f'settings.audit.copies: "c0" is to be in {path}, where no volume is. Name one under server.copies'
    with pytest.raises(HelmError, match=re.escape(said)):
        rendered({"vault": {"existingClaim": "v"}}, path)


def test_a_copy_in_a_folder_that_a_new_volume_does_not_have_is_refused() -> None:
    """No server makes it, so that the copy would be behind for ever, or the server would not start."""
    said = "and the volume that server.copies.shelf makes has no folder. Set its path to /mnt/copies/shelf."
    with pytest.raises(HelmError, match=re.escape(said)):
        rendered({"shelf": {"size": "1Gi"}}, "/mnt/copies/shelf/vestry")


def test_several_servers_share_a_volume_that_several_may_mount() -> None:
    """A claim that is made for one node would leave the second server waiting."""
    given = values("replicas")
    given["server"]["copies"] = {"shelf": {"size": "1Gi"}, "vault": {"existingClaim": "v"}}
    with pytest.raises(HelmError, match=r"server\.copies\.shelf: 2 servers .* Set its accessMode to ReadWriteMany"):
        render(given)
    given["server"]["copies"]["shelf"]["accessMode"] = "ReadWriteMany"
    assert of_kind(render(given), "PersistentVolumeClaim")


@pytest.mark.parametrize(
    "volume",
    [
        {},
        {"existingClaim": ""},
        {"existingClaim": "a", "size": "1Gi"},
        {"existingClaim": "a", "storageClassName": "fast"},
        {"size": "1Gi", "accessMode": "ReadOnlyMany"},
        {"hostPath": "/srv"},
    ],
    ids=str,
)
def test_anything_else_is_refused(volume: Object) -> None:
    """Neither none nor both, no path of the node."""
    with pytest.raises(HelmError, match="copies"):
        rendered({"vault": volume})
