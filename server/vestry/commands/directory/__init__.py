"""`vestry tenants|projects|users|keys|policy|break-glass|apply`: what is kept in the directory, one module a group."""

from __future__ import annotations

from vestry.commands import policy
from vestry.commands.directory import apply, break_glass, keys, keys_change, policies, projects, tenants, users

for each in keys_change.COMMANDS:
    keys.command.add_command(each)
for each in policies.COMMANDS:
    policy.command.add_command(each)

COMMANDS = (tenants.command, projects.command, users.command, keys.command, break_glass.command, apply.command)
