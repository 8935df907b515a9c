"""`vestry audit prune`: let go what the retention policy lets go."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click

from vestry.audit.opening import open_store
from vestry.audit.pruning import Plan, Policy, plan, prune
from vestry.audit.reading import is_log
from vestry.audit.records import Event
from vestry.audit.scan import LogLocked
from vestry.audit.store import SIGNING_SECONDS, Store, WriteFailed
from vestry.commands.audit.common import DIRECTORY, directory_of, logs_of, told
from vestry.commands.common import settings_of
from vestry.composition.outside import OutsideCopies
from vestry.composition.retention import policy_of
from vestry.composition.signing import signing
from vestry.settings.tree import Settings


class _Own:
    """pruning.Ledger over a log that this command has opened."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def move_on(self, policy: Policy) -> None:
        """Where nothing but the journal keeps the next records, end a segment that is older than a day, as the next
        record would: nobody may write to this log any more, and what the newest two hold is never pruned.

        Raises WriteFailed; and as `plan`.
        """
        self.sign()
        if plan(self._store.directory, policy).in_journal:
            self._store.commit([])
            self.sign()

    def record(self, event: Event) -> None:
        self._store.commit([event])

    def sign(self) -> None:
        self._store.notary.ask()
        self._store.notary.work()


@click.command("prune", short_help="Remove records that the retention policy lets go.")
@click.option("--dry-run", is_flag=True, help="Only say what would go, and what keeps the rest. Works beside a server.")
@click.option("--origin", "wanted", multiple=True, help="Only this log; may be repeated. Left out: every log.")
@DIRECTORY
@click.pass_obj
def command(config: Path | None, *, dry_run: bool, wanted: tuple[str, ...], directory: Path | None) -> None:
    """Remove, from the beginning of each log, what is older than `audit.retention.days` and held by no `audit.holds`.

    Whole bundles of 256 records go; the first record that must stay keeps everything behind it. The pruning is recorded
    and signed before anything is removed, and what is kept can be proved as before. A server prunes its own log, once a
    day: while one runs, this command leaves its log alone.

    Exit status: 0 if done, 1 if a log could not be pruned, 2 for faulty settings, or where there is no log.

    \b
    Examples:
      vestry audit prune --dry-run
      vestry audit prune --origin cli
    """
    settings = settings_of(config)
    policy = policy_of(settings)
    if policy is None:
        raise click.UsageError("The settings have no `audit.retention`, so nothing is ever pruned.")
    with told():
        where = directory_of(config, directory)
        logs = logs_of(where)
        if is_log(where) and not dry_run:
            raise click.UsageError(
                f"{where} is one log. Give the audit directory that it lies in, and the log's name with --origin."
            )
        if unknown := [name for name in wanted if name not in logs]:
            raise click.UsageError(f"{where} has no log `{unknown[0]}`. It has: {', '.join(logs)}.")
    refused = False
    for origin in wanted or tuple(logs):
        with told():
            found = plan(logs[origin], policy) if dry_run else _prune(settings, where, origin, policy)
        if found is None:
            refused = True
            continue
        done = "would be pruned" if dry_run else "pruned"
        click.echo(
            f"{origin}: {found.records} records {done}; the log begins with record {found.minimum} then: {found.why}."
        )
    if refused:
        raise click.exceptions.Exit(1)


def _prune(settings: Settings, directory: Path, origin: str, policy: Policy) -> Plan | None:
    """Prune one log that the outside copies do not speak against, and let them have its checkpoint. None where
    somebody else holds it.
    """
    try:
        signs = signing(settings)
        copies = OutsideCopies(settings, signs.signer.public, origin=origin, directory=directory, seconds=10)
        store = open_store(
            directory,
            origin,
            signing=signs,
            segment_bytes=settings.audit.segment_bytes,
            confirm=copies.confirm,
        )
    except LogLocked as fault:
        click.echo(f"{origin}: not pruned. {fault} A server prunes its own log, once a day.", err=True)
        return None
    own = _Own(store)
    try:
        own.move_on(policy)
        found = prune(directory / origin, policy, own, signing_seconds=SIGNING_SECONDS)
    except (WriteFailed, OSError) as fault:
        raise click.ClickException(f"The log {origin} could not be pruned: {fault}.") from None
    finally:
        with suppress(OSError):
            store.close()
    copies.start()
    copies.close()
    return found
