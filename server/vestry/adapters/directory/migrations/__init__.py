"""How the tables came to be, step by step: one history for SQLite and PostgreSQL. Each step can be undone."""
