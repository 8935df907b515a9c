"""A pod of a rendered release, lived out on this machine: its files below a folder, its variables, its command.

What Kubernetes would mount at `/run/secrets/vestry` lies at `FOLDER/run/secrets/vestry`, and the paths in the settings
are moved along. Where something that the pod names is not there, a KeyError says so, as the pod would wait for it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from click.testing import CliRunner, Result

from support.charts import Object, named
from support.cli import clean
from vestry.cli import main

ROOT = Path(__file__).resolve().parents[2]
Files = Mapping[str, Mapping[str, bytes]]
"""Secrets and ConfigMaps that are not the release's: by name, their entries."""


class Container:
    """The one container of a pod of a StatefulSet or a Job. `changes` are texts of the settings file that are others
    here, such as addresses of engines; `more` are variables beside the pod's own.
    """

    def __init__(
        self,
        objects: list[Object],
        kind: str,
        workload: str,
        folder: Path,
        given: Files,
        *,
        ordinal: int = 0,
        changes: Mapping[str, str] | None = None,
        more: Mapping[str, str] | None = None,
    ) -> None:
        self.name = f"{workload}-{ordinal}"
        self.folder = folder / self.name
        self._objects, self._given, self._changes = objects, given, changes or {}
        found = named(objects, kind, workload)["spec"]
        self._pod = found["template"]["spec"]
        [self._container] = self._pod["containers"]
        claims = [{"name": each["metadata"]["name"], "claim": {}} for each in found.get("volumeClaimTemplates", [])]
        self._volumes = {each["name"]: each for each in (*self._pod["volumes"], *claims)}
        self._mounts = [each["mountPath"] for each in self._container["volumeMounts"]]
        for mount in self._container["volumeMounts"]:
            self._fill(self.path(mount["mountPath"]), self._volumes[mount["name"]])
        self.arguments: list[str] = self._container["args"]
        self.variables = {**dict(self._environment()), **(more or {})}

    def path(self, inside: str) -> Path:
        """Where a path of the pod is here."""
        return self.folder / inside.lstrip("/")

    def _moved(self, text: str) -> str:
        places = "|".join(map(re.escape, sorted(self._mounts, key=len, reverse=True)))
        return re.sub(rf"(?<![\w/])({places})(?![\w-])", lambda found: str(self.path(found[1])), text)

    def _fill(self, here: Path, volume: Object) -> None:
        here.mkdir(parents=True)
        if "configMap" in volume:
            source = volume["configMap"]
            for path, content in self._entries(source, self._config(source["name"])):
                text = self._moved(content.decode())
                for old, new in self._changes.items():
                    text = text.replace(old, new)
                _write(here / path, text.encode(), 0o644)
        elif "secret" in volume:
            source = volume["secret"]
            self._secrets(here, source | {"name": source["secretName"]}, source["defaultMode"])
        elif "projected" in volume:
            for source in volume["projected"]["sources"]:
                self._secrets(here, source["secret"], volume["projected"]["defaultMode"])

    def _secrets(self, here: Path, source: Object, mode: int) -> None:
        for path, content in self._entries(source, self._given[source["name"]]):
            _write(here / path, content, mode if os.geteuid() == 0 else 0o400)

    def _config(self, name: str) -> Mapping[str, bytes]:
        if name in self._given:
            return self._given[name]
        return {key: text.encode() for key, text in named(self._objects, "ConfigMap", name)["data"].items()}

    def _entries(self, source: Object, data: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
        items = source.get("items") or [{"key": key, "path": key} for key in data]
        for item in items:
            if item["key"] in data or not source.get("optional"):
                yield item["path"], data[item["key"]]

    def _environment(self) -> Iterator[tuple[str, str]]:
        """The variables in order; `$(NAME)` stands for one before (Kubernetes: dependent variables)."""
        known: dict[str, str] = {}
        for each in self._container["env"]:
            source = each.get("valueFrom", {})
            if "secretKeyRef" in source:
                text = self._given[source["secretKeyRef"]["name"]][source["secretKeyRef"]["key"]].decode()
            elif source:
                assert source == {"fieldRef": {"fieldPath": "metadata.name"}}
                text = self.name
            else:
                text = self._moved(each["value"])
                for name, value in known.items():
                    text = text.replace(f"$({name})", value)
            known[each["name"]] = text
            yield each["name"], text

    def vestry(self, *arguments: str) -> Result:
        """A command in the container, as `kubectl exec` runs it; without arguments its own. In this process."""
        hidden: dict[str, str | None] = dict.fromkeys(name for name in os.environ if name.startswith("VESTRY_"))
        return CliRunner().invoke(main, list(arguments or self.arguments), env={**hidden, **self.variables})

    def ok(self, *arguments: str) -> str:
        """What a command that must work prints on standard output."""
        result = self.vestry(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    def start(self) -> subprocess.Popen[bytes]:
        """The container's own command, in a process of its own; its standard error goes to `stderr` in the folder."""
        path = os.pathsep.join([str(ROOT / "server"), os.environ.get("PYTHONPATH", "")])
        with (self.folder / "stderr").open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "vestry", *self.arguments],
                env={**clean(os.environ), **self.variables, "PYTHONPATH": path},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )


def _write(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
