"""Slips that anybody makes once, and that Kubernetes takes: a size without its unit, a tag in the repository, a file
that nobody mounts, a model that is split over more GPUs than there are.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from helm_python import HelmError

from support.charts import Object, named, render, values

SIZES: list[tuple[str, ...]] = [
    ("server", "persistence", "size"),
    ("server", "resources", "limits", "memory"),
    ("server", "copies", "shelf", "size"),
    ("engine", "sharedMemory"),
    ("engine", "cache"),
    ("engine", "resources", "requests", "memory"),
    ("models", "phi-3-mini", "cache"),
    ("store", "postgresql", "migration", "resources", "limits", "memory"),
]


def put(given: Object, path: tuple[str, ...], value: Any) -> Object:
    """The values, with this one in its place."""
    name, *rest = path
    return {**given, name: put(given.get(name) or {}, tuple(rest), value) if rest else value}


@pytest.mark.parametrize("path", SIZES, ids=".".join)
def test_a_size_has_its_unit(path: tuple[str, ...]) -> None:
    """50 is no volume of 50 GB but one of 50 bytes, and 50m of a twentieth of one."""
    for slip in (50, "50", "50m", 0, "Gi"):
        with pytest.raises(HelmError, match=re.escape(f"/{path[-1]}'")):
            render(put(values("gpu"), path, slip))
    for right in ("50Gi", "1.5Ti", 53_687_091_200, "53687091200", "500M"):
        assert render(put(values("gpu"), path, right))


@pytest.mark.parametrize("name", ["memroy", "gpu", "CPU"])
def test_a_resource_is_one_that_there_is(name: str) -> None:
    """What Kubernetes does not know would be asked of nodes that nobody has."""
    with pytest.raises(HelmError, match=name):
        render(put(values("gpu"), ("engine", "resources", "requests", name), 1))
    assert render(put(values("gpu"), ("engine", "resources", "requests", "rdma/hca"), 1))


@pytest.mark.parametrize("path", [("image",), ("engine", "image"), ("models", "phi-3-mini", "image")], ids=".".join)
def test_a_repository_has_no_tag(path: tuple[str, ...]) -> None:
    """The tag is a value of its own, which would be put behind the other one."""
    for slip in ("registry:5000/vestry:1.0", "vestry:1.0", "registry/vestry@sha256:" + "0" * 64, "registry/"):
        with pytest.raises(HelmError, match="repository"):
            render(put(values("gpu"), (*path, "repository"), slip))
    for right in ("vestry", "registry.example/a/vestry", "registry:5000/vestry", "10.0.0.1:5000/a/b_c/vestry-x"):
        assert render(put(values("gpu"), (*path, "repository"), right))


def test_a_file_that_the_settings_name_is_mounted() -> None:
    """Otherwise the server would not start, for want of a file that is in no volume."""
    issuer = {"name": "a", "issuer": "https://a.example", "audiences": ["v"], "grants": [{"tenant": "default"}]}
    settings = {"identity": {"issuers": [{**issuer, "ca": "/run/files/company-ca/ca.crt"}]}}
    with pytest.raises(HelmError, match=r"/run/files/company-ca, .* ConfigMap as server\.files\.company-ca\."):
        render(values("gpu") | {"settings": settings, "server": {"files": {"ca": {"secret": "x"}}}})
    assert render(values("gpu") | {"settings": settings, "server": {"files": {"company-ca": {"secret": "x"}}}})


@pytest.mark.parametrize("place", ["clients", "monitoring", "administrators", "services", "database"])
@pytest.mark.parametrize(
    ("slip", "right"), [("10.20.30.40", "10.20.30.40/32"), ("fd00::7", "fd00::7/128"), ("login.example", "10.0.0.0/8")]
)
def test_a_peer_that_is_an_address_is_a_network(place: str, slip: str, right: str) -> None:
    """Kubernetes would refuse it after the migration, when half of the release is there."""
    for block, good in (({"cidr": slip}, False), ({"cidr": right}, True), ({"cidr": right, "except": [slip]}, False)):
        peers: Any = [{"ipBlock": block}]
        shaped = {"services": [{"peers": peers, "port": 443}], "database": {"peers": peers}}.get(place, peers)
        given = put(values("gpu"), ("networkPolicy", place), shaped)
        if good:
            assert render(given)
            continue
        with pytest.raises(HelmError, match=re.escape(f'ipBlock "{slip}" is no network')):
            render(given)


@pytest.mark.parametrize(
    ("gpus", "arguments", "split"),
    [
        (2, {"tensor-parallel-size": 4}, 4),
        (1, {"pipeline-parallel-size": "2"}, 2),
        (4, {"tensor-parallel-size": 4, "pipeline-parallel-size": 2}, 8),
        (4, {"tensor-parallel-size": 2, "pipeline-parallel-size": 2}, None),
        (0, {"tensor-parallel-size": 2}, None),
        (2, {"tensor-parallel-size": 1}, None),
    ],
)
def test_a_model_is_split_over_the_gpus_that_there_are(gpus: int, arguments: Object, split: int | None) -> None:
    """vLLM would wait for GPUs that its pod does not have, and end."""
    given = put(
        put(values("gpu"), ("models", "phi-3-mini", "gpus"), gpus), ("models", "phi-3-mini", "arguments"), arguments
    )
    if split is None:
        assert named(render(given), "StatefulSet", "demo-vestry-phi-3-mini")
        return
    with pytest.raises(
        HelmError, match=f"they split the model over {split} GPUs, .* has {gpus}. Set .*gpus to {split},"
    ):
        render(given)
