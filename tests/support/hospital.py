"""A command line with a tenant in its settings and two models, and what its commands have recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.cli import Cli
from support.house import read_records

SETTINGS = """
state: {state}
tenants:
  radiology: {{models: [scan]}}
models:
  scan: {{catalog: smollm2-135m-instruct}}
  notes: {{catalog: phi-3-mini-4k-instruct, engine: {{port: 8101}}}}
"""


def hospital(folder: Path) -> Cli:
    """Its state directory is not there yet; the house's signing key is in a place of its own."""
    cli = Cli(folder / "state")
    path = folder / "vestry.yaml"
    path.write_text(SETTINGS.format(state=cli.state))
    cli.variables = {"VESTRY_CONFIG": str(path), "VESTRY_AUDIT__SIGNING_KEY": str(folder / "house" / "audit-key")}
    cli.ok("audit", "init")
    return cli


def recorded(cli: Cli, kind: str | None = None) -> list[dict[str, Any]]:
    """The records that the commands have written; of this kind, if one is given."""
    found = read_records(cli.state / "audit" / "cli", kind)
    return [each for each in found if kind or "change" in each["type"] or each["type"].startswith("key.")]


def verified(cli: Cli) -> None:
    """The log verifies with the house's public key."""
    public = cli.ok("audit", "public-key").split()[0]
    result = cli("audit", "verify", str(cli.state / "audit"), "--public-key", public)
    assert result.exit_code == 0, result.output
