"""`vestry tenants|projects|users|keys|apply`: what is kept in the directory, one module a group."""

from __future__ import annotations

from vestry.commands.directory import apply, keys, keys_change, projects, tenants, users

for each in keys_change.COMMANDS:
    keys.command.add_command(each)

COMMANDS = (tenants.command, projects.command, users.command, keys.command, apply.command)
