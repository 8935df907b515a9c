"""`python -m vestry`."""

from vestry.cli import main

main()
