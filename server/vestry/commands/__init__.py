"""The commands of `vestry`, one file each; `groups.py` says which there are, `cli.py` assembles them."""
