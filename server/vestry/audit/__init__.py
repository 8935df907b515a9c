"""The record: what is written of every call, and how it is kept."""
