"""What the shell completes: names of tenants, projects and users, ids of keys, models. Never waits, never fails."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from vestry.adapters.directory.glance import documents_of, key_ids
from vestry.configuration.reading import load
from vestry.faults import ConfigurationError
from vestry.settings.tree import Settings

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
MOST = 200


def _completes(names: Callable[[click.Context, Settings, str], Iterable[str]]) -> Complete:
    def complete(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
        settings = _settings(context)
        if settings is None:
            return []
        found = sorted({name for name in names(context, settings, begun) if name.startswith(begun)})
        return [CompletionItem(name) for name in found[:MOST]]

    return complete


def _settings(context: click.Context) -> Settings | None:
    config = context.find_root().params.get("config")
    with contextlib.suppress(ConfigurationError):
        return load(Path(config) if config else None, os.environ)
    return None


def _kept(settings: Settings, kind: str, tenant: str | None, begun: str) -> list[str]:
    """Only a file on this machine is looked at."""
    return documents_of(settings.keys_database, kind, tenant, begun, MOST) if _is_local(settings) else []


def _is_local(settings: Settings) -> bool:
    return settings.store.url is None


def _tenants(_context: click.Context, settings: Settings, begun: str) -> Iterable[str]:
    return [*settings.tenants, *_kept(settings, "tenant", None, begun)]


def _of_tenant(kind: str) -> Complete:
    def names(context: click.Context, settings: Settings, begun: str) -> Iterable[str]:
        return _kept(settings, kind, context.params.get("tenant"), begun)

    return _completes(names)


def _keys(context: click.Context, settings: Settings, begun: str) -> Iterable[str]:
    return key_ids(settings.keys_database, context.params.get("tenant"), begun, MOST) if _is_local(settings) else []


a_tenant = _completes(_tenants)
a_project = _of_tenant("project")
a_user = _of_tenant("user")
a_key = _completes(_keys)
a_model = _completes(lambda _context, settings, _begun: settings.models)
