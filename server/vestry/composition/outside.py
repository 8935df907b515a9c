"""From the settings to the sinks of outside copies: reads what their files hold, when it is needed.

The order in which a log and its copies are taken up and down:

    copies = OutsideCopies(settings, house, meter)
    AuditLog.open(..., watchers=[copies.couriers], confirm=copies.confirm)
    copies.start()
    ...
    copies.close()  # after the log, whose last checkpoint is to come along
"""

from __future__ import annotations

import configparser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from vestry import secret_files
from vestry.audit.copies.comparing import compare_with_copies
from vestry.audit.copies.couriers import Couriers
from vestry.audit.copies.directory import DirectorySink
from vestry.audit.copies.durable import read_bounded
from vestry.audit.copies.s3 import Bucket, S3Sink
from vestry.audit.copies.sigv4 import Credentials
from vestry.audit.copies.sink import NOTE_LIMIT, Observer, Sink
from vestry.audit.copies.syslog import SyslogSink
from vestry.audit.copies.witness import WitnessSink
from vestry.audit.opening import append_all
from vestry.audit.registry import REGISTRY
from vestry.audit.scan import LogUnusable
from vestry.audit.tlog.cosignatures import Cosigner
from vestry.audit.tlog.merkle import EMPTY_ROOT
from vestry.audit.tlog.notes import Checkpoint, NoteRefused, PublicKey
from vestry.composition.signing import signing
from vestry.faults import ConfigurationError, Fault
from vestry.seams import Record
from vestry.settings.copies import Copy, DirectoryCopy, S3Copy, SyslogCopy, WitnessCopy
from vestry.settings.section import is_private
from vestry.settings.tree import Settings
from vestry.wires import Peer, Undelivered, Web


class OutsideCopies:
    """All outside copies of one log: compared before it is opened, delivered to while it is."""

    def __init__(
        self,
        settings: Settings,
        house: PublicKey,
        observer: Observer | None = None,
        *,
        origin: str | None = None,
        directory: Path | None = None,
        seconds: float = 30.0,
    ) -> None:
        """For the log `origin`, the server's own if left out, in `directory`, that of the settings if left out; `house`
        is the house's public key; the comparison takes `seconds` at most.

        Raises ConfigurationError, as `sinks_of`.
        """
        origin = origin or settings.audit.origin
        self._directory = directory or settings.audit_directory
        self._home = self._directory / origin
        self._public = house.of(origin)
        self._observer, self._seconds = observer, seconds
        self._sinks = sinks_of(settings, self._home, self._public, origin)
        self.couriers = Couriers(self._home, self._sinks, observer=observer)

    def confirm(self, home: Path, head: Checkpoint | None) -> None:
        """opening.Confirm: compare the log with the copies. Raises LogDamaged, CopyMissing."""
        size, root = (0, EMPTY_ROOT) if head is None else (head.size, head.root)
        compare_with_copies(home, size, root, self._public, self._sinks, observer=self._observer, seconds=self._seconds)

    def start(self, *, anew: bool = False) -> None:
        """Begin to deliver; the registry of origins, too. A server does so at each start (`anew`): it hardly
        ever changes, and a disk, bucket or path that took the place of another would never have it.
        """
        self.couriers.start()
        with suppress(OSError, ValueError):
            self.couriers.registered(read_bounded(self._directory / REGISTRY, NOTE_LIMIT), anew=anew)

    def close(self) -> None:
        """Let the last checkpoint go out, for a few seconds at most."""
        self.couriers.close()


def record_all(settings: Settings, events: Sequence[Record]) -> None:
    """Write records from a command, in the log of commands; their checkpoint goes to the copies, a few seconds tried.

    Raises ConfigurationError, LogUnusable, OSError; then what the records announce must not be done.
    """
    signs = signing(settings)
    origin = settings.audit.commands
    copies = OutsideCopies(settings, signs.signer.public, origin=origin, seconds=5)
    append_all(settings.audit_directory, events, signing=signs, origin=origin, confirm=copies.confirm)
    copies.start()
    copies.close()


@contextmanager
def recorded_or(refused: type[Exception], otherwise: str) -> Iterator[None]:
    """A command's record is written within; where it cannot be, this is raised, and says `otherwise` and why."""
    try:
        yield
    except ConfigurationError as fault:
        why = "; ".join(map(str, fault.faults))
        raise refused(f"{otherwise} {why}") from None
    except (LogUnusable, OSError, ValueError) as fault:
        raise refused(f"{otherwise} {fault}") from fault


def sinks_of(settings: Settings, home: Path, public: PublicKey, origin: str) -> list[Sink]:
    """The sinks of the log `origin` in `home`, whose own key is `public`. Opens no connection.

    Raises ConfigurationError for what the settings' own checks cannot see: a witness's key that is damaged, credentials
    that are missing, or that others may read.
    """
    faults: list[Fault] = []
    sinks: list[Sink] = []
    for index, copy in enumerate(settings.audit.copies):
        try:
            sinks.append(_sink(copy, home, public, origin))
        except NoteRefused as error:
            mend = "Ask the witness's operator for its vkey"
            faults.append(Fault(f"audit.copies[{index}].public_key", str(error), mend))
        except ConfigurationError as error:
            faults += error.faults
    if faults:
        raise ConfigurationError(faults)
    return sinks


def _sink(copy: Copy, home: Path, public: PublicKey, origin: str) -> Sink:
    match copy:
        case DirectoryCopy():
            return DirectorySink(copy.name, copy.path, origin, required=copy.required, public=public)
        case SyslogCopy():
            peer = Peer(
                copy.host,
                copy.port,
                copy.seconds,
                tls=copy.transport == "tls",
                ca=copy.ca,
                certificate=copy.certificate,
                key=copy.key,
                permitted=is_private,
            )
            return SyslogSink(copy.name, peer)
        case WitnessCopy():
            return WitnessSink(
                copy.name,
                home=home,
                public=public,
                witness=Cosigner.parse(copy.public_key),
                submission=_web(copy, copy.url),
                monitoring=_web(copy, copy.monitoring_url or copy.url),
                required=copy.required,
            )
        case S3Copy():
            return _s3(copy, origin, public)


def _web(copy: WitnessCopy | S3Copy, url: str) -> Web:
    return Web.at(url, seconds=copy.seconds, ca=copy.ca, permitted=is_private)


def _s3(copy: S3Copy, origin: str, public: PublicKey) -> S3Sink:
    credentials_in(copy.credentials, copy.profile)

    def fresh() -> Credentials:
        """Read for every request: temporary ones are renewed in the file."""
        try:
            return credentials_in(copy.credentials, copy.profile)
        except ConfigurationError as error:
            raise Undelivered("; ".join(f"{each.place}: {each.what}" for each in error.faults)) from error

    bucket = Bucket(
        web=_web(copy, copy.endpoint),
        region=copy.region,
        name=copy.bucket,
        prefix=copy.prefix,
        mode="COMPLIANCE" if copy.mode == "compliance" else "GOVERNANCE",
        retain_days=copy.retain_days,
        path_style=copy.addressing == "path",
    )
    return S3Sink(copy.name, bucket, origin, fresh, required=copy.required, public=public)


def credentials_in(path: Path, profile: str) -> Credentials:
    """The access key in a file of AWS's shared form. Raises ConfigurationError, which never shows what it holds."""
    content = secret_files.read(path)
    mend = f"Write a section [{profile}] with `aws_access_key_id = ...` and `aws_secret_access_key = ...`"
    reader = configparser.ConfigParser(interpolation=None, default_section="\n")
    try:
        reader.read_string(content.decode("ascii"))
        section = reader[profile]
        found = Credentials(
            section["aws_access_key_id"], section["aws_secret_access_key"], section.get("aws_session_token", "")
        )
    except (configparser.Error, UnicodeDecodeError, KeyError):
        what = f"it is no credentials file with a section `{profile}` and both parts of an access key"
        raise secret_files.SecretFault(path, what, mend) from None
    if not all(each.isprintable() for each in (found.access_key, found.secret_key, found.token)):
        raise secret_files.SecretFault(path, "its access key holds control characters", mend)
    return found
