"""The record of one server, put together: the log, its copies outside, exports, contents, completeness, retention.

Up: copies are compared before the log is opened, and get what it signs. Down: the log is closed after everything that
writes to it, and the copies after the log, whose last checkpoint they are to have.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache, partial

from vestry.adapters.counters import NoReading, read_counters
from vestry.adapters.upstream import Upstream
from vestry.audit.completeness import Ledger
from vestry.audit.content.bundles import ContentDamaged
from vestry.audit.content.keeper import Keeper
from vestry.audit.content.keeper import Secrets as ContentSecrets
from vestry.audit.content.opening import hashed
from vestry.audit.content.sealing import Sealer
from vestry.audit.log import AuditLog
from vestry.audit.notary import Signing
from vestry.audit.records import Records
from vestry.audit.scan import LogUnusable
from vestry.auditor import AuditorKey
from vestry.composition.alongside import running
from vestry.composition.exporting import Exports
from vestry.composition.outside import OutsideCopies
from vestry.composition.reconcile import Reconciler
from vestry.composition.retention import Retainer, policy_of
from vestry.configuration.reading import digest
from vestry.errors import AuditUnavailable
from vestry.house import House, contents_of
from vestry.keeping import Keep
from vestry.meter.record import RecordMeter
from vestry.record import Recorder
from vestry.secret_files import CONTENT_HASH, SecretFault, content_hash
from vestry.settings.tree import Settings, Tenant
from vestry.types import ContentMode

log = logging.getLogger("vestry")
MOST_SEALERS = 16_384


class Recording:
    """Use: `async with recording.begun(): ... async with recording.held_against(engines): ...`."""

    journal: AuditLog
    recorder: Recorder
    records: Records
    keep: Keep | None = None

    def __init__(self, settings: Settings, signing: Signing, meter: RecordMeter) -> None:
        self._settings, self._signing, self._meter = settings, signing, meter
        self._home = settings.audit_directory / settings.audit.origin
        self._exports = Exports(settings, meter)
        self._ledger = Ledger()
        self._keeper: Keeper | None = None
        self._sealers: dict[str, Sealer] = {}
        self.records = Records(configuration_digest=digest(settings))
        self.failed, self.health = meter.failed, meter.health

    @contextlib.asynccontextmanager
    async def begun(self) -> AsyncIterator[None]:
        """The record from the server's start to its stop. Raises LogUnusable, ConfigurationError, OSError."""
        settings = self._settings
        async with contextlib.AsyncExitStack() as stack:
            copies = OutsideCopies(settings, self._signing.signer.public, self._meter)
            stack.callback(copies.close)
            self.journal = AuditLog.open(
                settings.audit_directory,
                settings.audit.origin,
                signing=self._signing,
                commit_seconds=settings.audit.commit_seconds,
                segment_bytes=settings.audit.segment_bytes,
                observer=self,
                watchers=[self._meter, copies.couriers],
                confirm=copies.confirm,
            )
            stack.push_async_callback(self.journal.close)
            copies.start(anew=True)
            await stack.enter_async_context(self._exports.running(self.journal.size))
            self.keep = self._keep(stack)
            self.recorder = Recorder(self.journal, self.records, self._ledger)
            await self.recorder.started(self.journal.origins)
            stack.push_async_callback(self.recorder.stopped)
            yield

    @contextlib.asynccontextmanager
    async def held_against(self, engines: Mapping[str, Upstream]) -> AsyncIterator[None]:
        """The engines' own counters are compared with it, and it is pruned, while calls are served."""
        audit = self._settings.audit
        reconciler = Reconciler(
            self._ledger,
            {name: partial(read_counters, engine) for name, engine in engines.items()},
            self.journal,
            self.records,
            home=self._home,
            seconds=audit.reconcile_seconds,
            shared=audit.engines_shared,
            unreadable=NoReading,
        )
        self._meter.standing = reconciler.standing
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(reconciler.stop)
            await stack.enter_async_context(running(reconciler.run()))
            policy = policy_of(self._settings)
            if policy is not None:
                retainer = Retainer(self._home, policy, self.journal, self.journal.checkpoint)
                await stack.enter_async_context(running(retainer.run()))
                stack.callback(retainer.halt)
            yield

    def missing(self) -> dict[str, str]:
        """What keeps the server from being ready, by part."""
        missing = {}
        if not self.journal.healthy:
            missing["record"] = "the record cannot be written"
        if self._keeper is not None and not self._keeper.healthy:
            missing["content"] = "content that is to be kept cannot be written"
        return missing

    def committed(self, seconds: float, records: int, size: int) -> None:
        """As log.Observer: the meter counts it, and exports learn what is durable."""
        self._meter.committed(seconds, records, size)
        self._exports.grown(self.journal.size)

    def housed(self, house: House) -> None:
        """The house has changed: whose content is sealed to whom."""
        try:
            self._sealers = sealers(self._settings, house.tenants)
        except ValueError as fault:
            log.error("a tenant of the directory names an auditor that nothing can be sealed to: %s", fault)  # noqa: TRY400

    def _sealer(self, tenant: str) -> Sealer:
        """What seals a tenant's content. Raises OSError where there is nobody to seal it to: it is then not served."""
        found = self._sealers.get(tenant)
        if found is None:  # as where the settings had a key for a tenant of the directory, and have none now
            raise OSError(
                f"that of the tenant `{tenant}` is to be sealed, and there is no auditor's key to seal it to: name one "
                "as `audit.auditor`, or as the tenant's `content.auditor`"
            )
        return found

    def _hashing_at_need(self) -> bytes:
        """As `_hashing`; all that it raises is OSError, as the keeper expects it."""
        try:
            return self._hashing()
        except (SecretFault, ContentDamaged) as fault:
            raise OSError(str(fault).removeprefix("- ")) from fault

    def _hashing(self) -> bytes:
        """The secret of all keyed hashes; a lost one is not replaced. Raises SecretFault, ContentDamaged, OSError."""
        path = self._settings.secrets_directory / CONTENT_HASH
        if not os.path.lexists(path) and hashed(self._home):
            what = "it is missing, and content was hashed with it: what was asked then could not be tested any more"
            raise SecretFault(path, what, "Restore it from a copy; or, to begin anew, put 32 random bytes there")
        return content_hash(self._settings)

    def _keep(self, stack: contextlib.AsyncExitStack) -> Keep:
        """What keeps content. What the settings say of it is tried at once; raises LogUnusable."""
        settings = self._settings
        secrets = ContentSecrets(self._hashing_at_need, self._sealer)

        def keeper() -> Keeper:
            if self._keeper is None:
                self._keeper = Keeper(
                    self._home, secrets, seconds=settings.audit.commit_seconds, failed=self._meter.content_failed
                )
                stack.push_async_callback(self._keeper.close)
            return self._keeper

        def at_need() -> Keeper:
            try:
                return keeper()
            except LogUnusable as fault:
                log.error("content cannot be kept, so no call is served whose content is to be: %s", fault)  # noqa: TRY400
                raise AuditUnavailable from fault

        try:
            modes = {*contents_of(settings.tenants).values(), *rule_modes(settings)}
            self._sealers = sealers(settings, settings.tenants)
            if ContentMode.HASHED in modes:
                self._hashing()
        except (SecretFault, ContentDamaged, OSError, ValueError) as fault:
            raise LogUnusable(f"Content cannot be kept as the settings say: {fault}") from fault
        if modes:
            keeper()
        return Keep(at_need, limit=settings.audit.content_bytes)


def rule_modes(settings: Settings) -> set[ContentMode]:
    """The modes that rules of the policy put in the place of the tenants', where content is kept."""
    return {ContentMode(rule.content) for rule in settings.policy.rules if rule.content} - {ContentMode.METADATA}


def sealers(settings: Settings, tenants: Mapping[str, Tenant]) -> dict[str, Sealer]:
    """What seals the content of each tenant that has somebody to seal it to. Raises ValueError."""
    keys = {name: tenant.content.auditor or settings.audit.auditor for name, tenant in tenants.items()}
    return {name: _sealer_to(key) for name, key in keys.items() if key}


@lru_cache(maxsize=MOST_SEALERS)
def _sealer_to(key: str) -> Sealer:
    """Trying whether it seals costs a tenth of a millisecond: too much for each tenant at each change of the house."""
    return Sealer(AuditorKey.parse(key))
