"""The settings: one frozen tree (`tree.py`), a section of it in each file."""
