"""A model of the settings together with its catalog entry, and what the server has to know of it."""

from __future__ import annotations

import json
from pathlib import Path

from msgspec import Struct

from vestry.models import catalog, environment, manifest
from vestry.models.arguments import address, context_length
from vestry.models.catalog import Entry, ModelError
from vestry.models.places import Places
from vestry.settings.tree import Model, Settings
from vestry.types import Replica, ServedModel


class Chosen(Struct, frozen=True):
    """`name` is what clients call the model."""

    name: str
    model: Model
    entry: Entry

    def folder(self, places: Places) -> Path:
        """Where the weights are: the settings' `path`, or where the entry is prepared."""
        return (self.model.path or places.model(self.entry)).absolute()


def choose(settings: Settings, name: str) -> Chosen:
    """A model by the name that clients use, or, if there is none, a catalog entry as it stands. Raises ModelError."""
    model = settings.models.get(name)
    if model is None:
        if name not in catalog.entries():
            known = ", ".join({**settings.models, **catalog.entries()})
            raise ModelError(
                f"There is no model `{name}`, neither in the settings nor in the catalog. There are: {known}."
            )
        return Chosen(name, Model(), catalog.entry(name))
    if model.catalog is None and name not in catalog.entries():
        known = ", ".join(catalog.entries())
        raise ModelError(f"`models.{name}` names no catalog entry. Set `models.{name}.catalog` to one of: {known}.")
    return Chosen(name, model, catalog.entry(model.catalog or name))


def served(settings: Settings) -> list[ServedModel]:
    """Every model of the settings, with what the record needs to say which weights answered. Raises ModelError.

    Digests and the engine's version are empty where the model's folder is not on this machine.
    """
    return [_served(choose(settings, name), Places(settings.state)) for name in settings.models]


def _served(chosen: Chosen, places: Places) -> ServedModel:
    folder, entry, model = chosen.folder(places), chosen.entry, chosen.model
    found = manifest.read(folder)
    stamp = environment.stamp_of(places.engine) if not model.replicas else None
    unknown = found is None and model.path is not None  # weights that nobody has looked at get no name
    urls = [replica.url for replica in model.replicas] or [address(model.engine.host, model.engine.port)]
    return ServedModel(
        name=chosen.name,
        created=entry.created,
        context_length=context_length(entry, model.engine.arguments),
        vocabulary=found.vocabulary if found else _vocabulary(folder, entry),
        replicas=tuple(Replica(url.partition("://")[2], url) for url in urls),
        revision=found.revision if found else "" if unknown else entry.revision,
        weights_digest=f"sha256:{found.weights_digest}" if found else "",
        quantization=found.quantization if found else "" if unknown else entry.quantization,
        chat_template_digest=f"sha256:{found.chat_template_digest}" if found else "",
        engine_version=f"{stamp.engine} {stamp.version}" if stamp else "",
    )


def _vocabulary(folder: Path, entry: Entry) -> int:
    """Of a folder without manifest: what its config.json says, else the catalog."""
    path = folder / "config.json"
    try:
        size = json.loads(path.read_bytes())["vocab_size"] if path.is_file() else entry.vocabulary
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return entry.vocabulary
    return size if isinstance(size, int) and size > 0 else entry.vocabulary
