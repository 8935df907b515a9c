"""The commands of `vestry`, one file each; `cli.py` assembles them."""
