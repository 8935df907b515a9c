"""Values that are left empty (`name:`): Helm takes the chart's default away, and nothing may come of that unseen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from helm_python import HelmError

from support.charts import Object, chart, named, render, validate, values

Path = tuple[str, ...]
SETTINGS = ("settings",)
THE_CLUSTERS = ("podSecurity",)
"""`null` leaves the choice to the cluster, as its comment says."""


def paths(part: Object, before: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value of the chart, and its default."""
    for name, value in part.items():
        yield (*before, name), value
        if isinstance(value, dict):
            yield from paths(value, (*before, name))


ALL = {
    path: default
    for path, default in paths(chart().values)
    if path[0] != "settings" or len(path) < 3 or "server" in path
}
"""Of the settings those that the chart's templates look at."""


def put(given: Object, path: Path, value: Any) -> Object:
    """The values, with this one in its place."""
    name, *rest = path
    inner = given.get(name)
    return {**given, name: put(inner if isinstance(inner, dict) else {}, tuple(rest), value) if rest else value}


def without(given: Object, path: Path) -> Object:
    """The values, and nothing said of this one."""
    name, *rest = path
    if name not in given:
        return given
    if rest:
        return {**given, name: without(given[name], tuple(rest))}
    return {key: value for key, value in given.items() if key != name}


@cache
def rendered() -> list[Object]:
    """What comes of the values as they are: of most paths they say nothing."""
    return render(values("replicas"))


def attempt(given: Object) -> tuple[list[Object], str]:
    """What is rendered, or Helm's refusal."""
    try:
        return render(given), ""
    except HelmError as refused:
        return [], str(refused)


@pytest.mark.parametrize("path", ALL, ids=".".join)
def test_a_value_left_empty_is_refused_by_its_name_or_is_none(path: Path) -> None:
    """Where there has to be one, the refusal names it, and is none of Helm's about its templates. A number or a truth
    value has to be. A text or a list may be empty, and is then what `""` and `[]` are.
    """
    base = values("replicas")
    default, given = ALL[path], without(base, path)
    objects, refusal = attempt(put(given, path, None))
    if refusal:
        assert "The values cannot be used" in refusal or f"missing property '{path[-1]}'" in refusal
        return
    usual = rendered() if given == base else render(given)
    for each in objects:
        if each not in usual:
            validate(each, "1.37")
    if path[0] not in SETTINGS + THE_CLUSTERS and "resources" not in path:
        assert isinstance(default, str | list | dict), "nobody was asked, and Helm's zero is in its place"
        if isinstance(default, str | list):
            assert objects == render(put(given, path, type(default)()))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (("networkPolicy", "enabled"), "missing property 'enabled'"),
        (("settings",), "missing property 'settings'"),
        (("settings", "server"), "missing property 'server'"),
        (("settings", "server", "drain_seconds"), "missing property 'drain_seconds'"),
        (("server", "replicas"), "missing property 'replicas'"),
        (("engine", "gpus"), "missing property 'gpus'"),
    ],
    ids=lambda each: ".".join(each) if isinstance(each, tuple) else None,
)
def test_what_an_empty_value_would_undo_in_silence_is_refused(path: Path, said: str) -> None:
    """All policies gone, no process, an engine on the CPU, a pod killed in its drain: none of it for a slip."""
    with pytest.raises(HelmError, match=re.escape(said)):
        render(put(without(values("replicas"), path), path, None))


def test_several_servers_need_no_settings_of_the_record() -> None:
    """`settings.audit:` is the program's defaults, and what the chart itself decides stands there all the same."""
    objects = render(put(values("replicas"), ("settings", "audit"), None))
    assert "engines_shared: true" in named(objects, "ConfigMap", "demo-vestry")["data"]["vestry.yaml"]


def test_an_image_is_named_by_tag_or_digest() -> None:
    """A digest alone is enough; with neither, some `latest` would run, so that is refused."""
    digest = "sha256:" + "1" * 64
    given = put(values("gpu"), ("engine", "image"), {"repository": "registry/vllm", "tag": "", "digest": digest})
    [engine] = named(render(given), "StatefulSet", "demo-vestry-phi-3-mini")["spec"]["template"]["spec"]["containers"]
    assert engine["image"] == f"registry/vllm@{digest}"
    with pytest.raises(HelmError, match=r"models\.phi-3-mini\.image: it has neither tag nor digest"):
        render(put(values("gpu"), ("engine", "image"), {"tag": ""}))
