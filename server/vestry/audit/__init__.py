"""The record: what a record holds, how it becomes bytes, and the append-only log that keeps it.

This room knows seams, types and errors only. Its doors are `log.AuditLog` (the server's journal),
`opening.append_all` (records from a command), `records.Records` (the builders) and `flood.RefusalLog`.
"""
