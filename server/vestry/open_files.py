"""The limit on open files: each client's connection is one, and so is whatever the record opens.

Service managers and container runtimes give a process 1024, for programs that use select(2), and let it take many times
more. A server that leaves it at that is at its end with a thousand clients that stay connected: the record could open
no file, and not even a probe would be answered.
"""

from __future__ import annotations

import resource

from vestry.settings.tree import Settings

OTHERS = 256
"""The record's files, the directory, exports, the other ports."""


def wanted(settings: Settings) -> int:
    """How many open files the settings may come to: every connection, a call to an engine for each, and the rest."""
    return settings.door.connections + settings.server.concurrency + OTHERS


def allowed() -> int | None:
    """How many this process may have, if it asks for it; None for any number."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def take(number: int) -> bool:
    """Let this process have so many open files, or as many as it may; whether that is enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= number:
        return True
    most = allowed()
    resource.setrlimit(resource.RLIMIT_NOFILE, (number if most is None else min(number, most), hard))
    return most is None or most >= number
