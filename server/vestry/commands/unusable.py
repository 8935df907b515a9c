"""What cannot be used. In a file of its own, for the commands that need no settings."""

from __future__ import annotations

import click


class Unusable(click.ClickException):
    """What was given, or is asked for, cannot be used: a sentence, and exit status 2."""

    exit_code = 2
