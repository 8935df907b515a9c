"""`vestry check`: every fault of the settings at once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import msgspec

from vestry.audit.registry import REGISTRY
from vestry.commands.common import BadSettings
from vestry.composition.signing import other_key, signer
from vestry.configuration.inspection import inspect
from vestry.configuration.reading import Places, digest, read, schema
from vestry.configuration.strict_yaml import Trail
from vestry.faults import ConfigurationError, Fault
from vestry.models import manifest
from vestry.models import places as models
from vestry.models.arguments import address, context_length
from vestry.models.catalog import ModelError, entries
from vestry.models.chosen import Chosen
from vestry.secret_files import SecretFault, looked_at
from vestry.settings.tree import Settings


@click.command("check", short_help="Name every fault of the settings, with its place and the mend.")
@click.option("--schema", "print_schema", is_flag=True, help="Print the JSON Schema of the settings file, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def command(config: Path | None, print_schema: bool, as_json: bool) -> None:
    """Read the settings as the server would, and name every fault with its place and the mend.

    Beyond the file and the VESTRY_... variables it looks at what they name: certificates and keys, secret files,
    directories, addresses of engines, ports, the models' catalog entries. It changes nothing.

    Exit status: 0 if the settings are valid, 2 if they are not.

    \b
    Examples:
      vestry --config vestry.yaml check
      VESTRY_SERVER__PORT=9000 vestry check
      vestry check --schema > settings.schema.json
    """
    if print_schema:
        click.echo(schema(), nl=False)
        return
    settings, faults = judge(config)
    if as_json:
        found = {"valid": not faults, "faults": [msgspec.structs.asdict(fault) for fault in faults]}
        click.echo(json.dumps(found if settings is None else {**found, "digest": digest(settings)}, indent=2))
        if faults:
            raise click.exceptions.Exit(BadSettings.exit_code)
    elif faults or settings is None:
        raise BadSettings(faults)
    else:
        click.echo(_summary(settings, config))


def judge(config: Path | None) -> tuple[Settings | None, list[Fault]]:
    """The settings if they can be read at all, and every fault of them."""
    try:
        reading = read(config, os.environ)
    except ConfigurationError as error:
        return None, error.faults
    settings = reading.settings
    faults = [*inspect(settings, reading.places.of), *faults_of_models(settings, reading.places)]
    return settings, [*faults, *(fault for fault in _signing_key(settings) if fault not in faults)]


def _signing_key(settings: Settings) -> list[Fault]:
    """A key that signs the record and is no good, or not the record's own, or is not there although the settings or the
    record know of it.

    Before `vestry audit init` there is none; the summary says so.
    """
    begun = settings.audit.signing_key is not None or looked_at(settings.audit_directory / REGISTRY) is not None
    if not begun and not os.path.lexists(settings.signing_key):
        return []
    try:
        fault = other_key(settings, signer(settings))
    except SecretFault as error:
        fault = error
    return [] if fault is None else fault.faults


def faults_of_models(settings: Settings, places: Places) -> Iterator[Fault]:
    """What the catalog and the engines' own rules say of the models."""
    for name, model in settings.models.items():
        wanted = model.catalog or name
        entry = entries().get(wanted)
        if entry is None:
            known = ", ".join(f"`{each}`" for each in entries())
            place = places.of(("models", name, *(["catalog"] if model.catalog else [])))
            yield Fault(place, f"the catalog has no entry `{wanted}`", f"Name one with `catalog:`. There are: {known}")
            continue
        folder = Chosen(name, model, entry).folder(models.Places(settings.state))
        rules: dict[Trail, Callable[[], object]] = {
            ("engine", "arguments"): partial(context_length, entry, model.engine.arguments),
            ("path",): partial(manifest.read, folder),
        }
        if not model.replicas:
            rules["engine", "host"] = partial(address, model.engine.host, model.engine.port)
        for trail, rule in rules.items():
            try:
                rule()
            except ModelError as error:
                place = places.of(("models", name, *trail))
                yield Fault(place, str(error).rstrip("."), "See docs/bring-a-model.md")


def _summary(settings: Settings, config: Path | None) -> str:
    server = settings.server
    scheme = "http" if server.tls is None else "https"
    lines = {
        "file": "none: --config or VESTRY_CONFIG names one" if config is None else str(config.absolute()),
        "API": f"{scheme}://{server.host}:{server.port}",
        "operations": f"http://{server.ops_host}:{server.ops_port}",
        "administration": f"{scheme}://{server.admin_host}:{server.admin_port}",
        "tenants": ", ".join(settings.tenants),
        "models": ", ".join(settings.models),
        "state": str(settings.state.absolute()),
        "record": str(settings.audit_directory.absolute()),
        "signing key": str(settings.signing_key.absolute()),
        "digest": digest(settings),
    }
    if not os.path.lexists(settings.signing_key):
        lines["signing key"] = "none yet: make it with `vestry audit init` (`vestry up` does it by itself)"
    width = max(map(len, lines)) + 2
    return "\n".join(["settings are valid:", *(f"  {name:<{width}}{said}" for name, said in lines.items())])
