"""From the settings to the sinks of outside copies: reads what their files hold, when it is needed.

sinks = sinks_of(settings, home, signer.public.of(origin), origin)
compare_with_copies(home, size, root, public, sinks, observer=meter)      # before the log is opened
couriers = Couriers(home, sinks, observer=meter); couriers.start()        # an observer of the notary
"""

from __future__ import annotations

import configparser
from pathlib import Path

from vestry import secret_files
from vestry.audit.copies.directory import DirectorySink
from vestry.audit.copies.s3 import Bucket, S3Sink
from vestry.audit.copies.sigv4 import Credentials
from vestry.audit.copies.sink import Sink, Undelivered
from vestry.audit.copies.syslog import SyslogSink
from vestry.audit.copies.wires import Peer, Web
from vestry.audit.copies.witness import WitnessSink
from vestry.audit.tlog.cosignatures import Cosigner
from vestry.audit.tlog.notes import NoteRefused, PublicKey
from vestry.faults import ConfigurationError, Fault
from vestry.section import is_private
from vestry.settings import Settings
from vestry.settings_copies import Copy, DirectoryCopy, S3Copy, SyslogCopy, WitnessCopy


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
            return DirectorySink(copy.name, copy.path, origin, required=copy.required)
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
            return _s3(copy, origin)


def _web(copy: WitnessCopy | S3Copy, url: str) -> Web:
    return Web.at(url, seconds=copy.seconds, ca=copy.ca, permitted=is_private)


def _s3(copy: S3Copy, origin: str) -> S3Sink:
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
    return S3Sink(copy.name, bucket, origin, fresh, required=copy.required)


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
