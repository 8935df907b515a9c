"""How the directory fails, and what is said of it."""

from __future__ import annotations

from vestry.errors import KeysUnavailable

OLDER = (
    "the directory is older than it was (%d changes, and %d before), as after a failover to a copy that lags, or from "
    "a backup: revocations and other changes since then are in force no more. See docs/directory.md, Copies"
)
"""For the log. Whoever restores it may not know; what was let in again shows nowhere else."""


class DirectoryFault(KeysUnavailable):
    """The directory cannot be used. `why` is a sentence for the operator, without a full stop and without a secret; the
    message, for the client, does not hold it.
    """

    def __init__(self, why: str):
        super().__init__()
        self.why = why


class SchemaFault(DirectoryFault):
    """The tables are older or newer than this program's. It does not heal by itself."""


class DamageFault(DirectoryFault):
    """The directory can be read, and something that is kept in it cannot be used. It stays so until that is changed."""


class Unfit(Exception):  # noqa: N818 - caught where it becomes a DirectoryFault
    """There is a database, but not one that can be used. `str()` says why, with the database as its subject."""


class WrongSchema(Unfit):
    """The tables are older or newer than this program's."""


class Damaged(Unfit):
    """A row holds what no program of this version has written."""


def fault_of(error: BaseException, why: str) -> DirectoryFault:
    """The fault that an error comes to; `why` is told to the operator."""
    if isinstance(error, WrongSchema):
        return SchemaFault(why)
    if isinstance(error, Damaged):  # it names what stands in the row: no second line of a log, no word to a terminal
        return DamageFault("".join(each if each.isprintable() else ascii(each)[1:-1] for each in why))
    return DirectoryFault(why)
