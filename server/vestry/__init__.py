"""Vestry: a private model server that keeps a record of every call."""

__version__ = "0.1.0"
