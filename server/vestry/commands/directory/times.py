"""Times and spans, as options write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta

import click

_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_LONGEST = timedelta(days=36_525)
SPAN = re.compile(r"([0-9]{1,6})([hdw])")


def expiry(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    """A time to come, in microseconds since the epoch; None for `never`."""
    if value is None or value == "never":
        return None
    moment = datetime.now(UTC)
    try:
        until = _until(value, moment)
    except (ValueError, OverflowError):
        said = "write 12h, 90d, 26w, a date as 2027-01-31, a time as 2027-01-31T18:00:00Z, or never"
        raise click.BadParameter(said) from None
    if until <= moment:
        raise click.BadParameter("that time has passed")
    if until > moment + _LONGEST:
        raise click.BadParameter("that is more than a hundred years away; write never")
    return round(until.timestamp() * 1_000_000)


def _until(text: str, moment: datetime) -> datetime:
    """Raises ValueError for what is no time, OverflowError for one beyond the calendar."""
    if span := SPAN.fullmatch(text):
        return moment + int(span[1]) * _UNITS[span[2]]
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return datetime.combine(datetime.fromisoformat(text), time(), UTC) + timedelta(days=1)
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("a time needs its offset from UTC")
    return found


def span(_context: click.Context, _option: click.Parameter, value: str) -> int:
    """A span of time, in seconds."""
    found = re.fullmatch(r"([0-9]{1,6})([smhdw])", value)
    if found is None:
        raise click.BadParameter("write 0s, 90s, 30m, 24h, 7d")
    return int(int(found[1]) * _UNITS[found[2]].total_seconds())


def day(moment: int | None) -> str:
    """A time for people, of microseconds since the epoch."""
    return "never" if moment is None else f"{datetime.fromtimestamp(moment / 1_000_000, UTC):%Y-%m-%d %H:%M} UTC"
