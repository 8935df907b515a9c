"""The directory: tenants, projects, users, keys and policy, in SQLite or in PostgreSQL.

`store.py` is the one implementation of seams.Directory, over a `Backend`: `sqlite.py` or `postgres.py`. The tables are
made by `migrations/` alone; `tables.py` says what they look like after the last of them.
"""
