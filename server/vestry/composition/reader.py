"""Who runs a command; and that they read a server's logs: recorded in the log of commands before anything is shown."""

from __future__ import annotations

import os
import pwd

from vestry.audit.fields import RecordType
from vestry.audit.records import Records
from vestry.composition.outside import record_all, recorded_or
from vestry.settings.tree import Settings


class ReadingRefused(Exception):  # noqa: N818 - an answer to the operator
    """The log is not shown. `str()` is a sentence that says why."""


def record_reading(settings: Settings, *, command: str, asked: str, records: int | None) -> None:
    """Record that somebody is about to read this server's logs. Raises ReadingRefused."""
    event = Records().event(
        RecordType.LOG_READ, actor=user_of_this_process(), command=command, filter=asked, records=records
    )
    with recorded_or(ReadingRefused, "Nothing is shown, because the reading could not be recorded."):
        record_all(settings, [event])


def user_of_this_process() -> str:
    """Who runs the command, as the record names it: the login name, and behind `sudo` also whose it was."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    behind = os.environ.get("SUDO_USER", "")
    return f"{name} (sudo by {behind})" if behind and behind != name else name
