"""The groups of commands, with what stands in each. A command itself is imported when it is called."""

from __future__ import annotations

import click

from vestry.commands.late import LateGroup


@click.group(
    "audit",
    cls=LateGroup,
    short_help="The audit log: its keys, proofs, and what stands in it.",
    late={
        "init": ("audit.init:command", "Make the key that signs the audit log."),
        "public-key": ("audit.public_key:command", "Print the public key of the audit log."),
        "checkpoint": ("audit.checkpoint:command", "Sign a checkpoint now."),
        "status": ("audit.status:command", "Show how the audit logs are, and what is wrong."),
        "show": ("audit.show:command", "Find records, and show them."),
        "export": ("audit.export:command", "Export records as JSON Lines, OCSF or CEF."),
        "index": ("audit.index:command", "Bring the index beside the log up to date, or make it anew."),
        "verify": ("audit.verify:command", "Verify a copy of the record, offline."),
        "prove": ("audit.prove:command", "Write proofs that records stand in the log."),
        "verify-proof": ("audit.verify_proof:command", "Verify a proof that a record stands in the log."),
        "reconcile": ("audit.reconcile:command", "Add up the logs, and compare them with the engines' counters."),
        "keygen": ("audit.keygen:command", "Make an auditor's key pair, away from the server."),
        "open": ("audit.opening:command", "Show what was asked in a call, and what was answered."),
        "erase": ("audit.erase:command", "Destroy what is kept of a person's prompts and answers."),
        "tenant-key": ("audit.tenant_key:command", "Print the key of one tenant's content hashes."),
        "prune": ("audit.prune:command", "Remove records that the retention policy lets go."),
    },
)
def audit() -> None:
    """The audit log: its signing key and checkpoints; find and export records; verify a copy, and prove a record; open
    and erase content.

    `verify` and `verify-proof` work on copies, offline, with the public key alone; they need no settings.

    \b
    Exit status: 0 done, 1 it did not work, or a log or a proof does not verify, 2 for what cannot be used.
    """


@click.group(
    "break-glass",
    cls=LateGroup,
    short_help="Look at roles that are lent, and end them.",
    late={
        "list": ("directory.break_glass:listed", "List asks and grants."),
        "end": ("directory.break_glass:end", "End a grant, or an ask."),
    },
)
def break_glass() -> None:
    """Look at the roles that people have asked for and been lent, and end them.

    Asking and approving take two people, and go through the administration (`/admin/v1/break-glass`).

    \b
    Exit status: 0 done, 1 refused or failed, 2 a wrong option or faulty settings.
    """


@click.group(
    "keys",
    cls=LateGroup,
    short_help="Make, list, change and revoke API keys.",
    late={
        "create": ("directory.keys:create", "Make a key, and show it once."),
        "list": ("directory.keys:listed", "List keys, without their secrets."),
        "show": ("directory.keys:show", "Show a key, without its secret."),
        "identify": ("directory.keys:identify", "Say whose a key is."),
        "update": ("directory.keys_change:update", "Change what a key may do."),
        "freeze": ("directory.keys_change:freeze", "Refuse keys until they are thawed."),
        "thaw": ("directory.keys_change:thaw", "Let frozen keys work again."),
        "rotate": ("directory.keys_change:rotate", "Make a key that takes over from another, and show it once."),
        "revoke": ("directory.keys_change:revoke", "Revoke keys, at once."),
    },
)
def keys() -> None:
    """Make, list, change and revoke API keys.

    A key belongs to a person or program (its owner) in a tenant. Only a keyed hash of it is stored, so it is shown
    once, when it is made. Every change is written to the audit log before it takes effect; a running server acts on it
    with its next call, with PostgreSQL within two seconds.

    \b
    Exit status: 0 done, 1 refused or failed, 2 a wrong option or faulty settings.
    """


@click.group(
    "policy",
    cls=LateGroup,
    short_help="The rules in force, what they say of a call, and those of the directory.",
    late={
        "rules": ("policy:rules", "List the rules in force, in their order."),
        "explain": ("policy:explain_", "Say what would become of a call, and why."),
        "show": ("directory.policies:show", "Show the directory's policy."),
        "set": ("directory.policies:put", "Write the directory's policy."),
        "remove": ("directory.policies:remove", "Remove the directory's policy."),
    },
)
def policy() -> None:
    """Look at the policy: the rules of the settings and of the directory, in the order in which they are tried; and
    write those of the directory.

    \b
    Exit status: 0 allowed, or done; 1 denied; 2 a wrong option or faulty settings.
    """


@click.group(
    "projects",
    cls=LateGroup,
    short_help="List, show, make, change and remove projects.",
    late={
        "list": ("directory.projects:listed", "List projects."),
        "show": ("directory.projects:show", "Show a project."),
        "set": ("directory.projects:put", "Make or change a project."),
        "remove": ("directory.projects:remove", "Remove a project that nobody belongs to."),
    },
)
def projects() -> None:
    """List, show, make, change and remove the projects of a tenant.

    Keys and users may belong to a project, and have its bounds at most. Every change is written to the audit log
    before it takes effect; a running server acts on it with its next call, with
    PostgreSQL within two seconds.

    \b
    Exit status: 0 done, 1 refused or failed, 2 a wrong option, a faulty body or faulty settings.
    """


@click.group(
    "store",
    cls=LateGroup,
    short_help="Prepare and look at the database of keys and tenants.",
    late={
        "migrate": ("store:migrate", "Bring the tables to this version's schema."),
        "status": ("store:status", "Say which schema there is, and which one is needed."),
        "downgrade": ("store:downgrade", "Bring the tables back to an older version's schema."),
    },
)
def store() -> None:
    """Prepare and look at the database that holds tenants, users and keys.

    In SQLite, `vestry serve` and `vestry up` bring it up to date by themselves. In PostgreSQL only `migrate` does: run
    it before a new version serves. A server that finds tables of another version refuses to start.

    \b
    Exit status: 0 done, 1 failed, 2 a wrong option or faulty settings.
    """


@click.group(
    "tenants",
    cls=LateGroup,
    short_help="List, show, make, change and remove tenants.",
    late={
        "export": (
            "directory.export:command",
            "Print tenants, projects, users and policy as `vestry apply` takes them.",
        ),
        "list": ("directory.tenants:listed", "List tenants."),
        "show": ("directory.tenants:show", "Show a tenant."),
        "set": ("directory.tenants:put", "Make or change a tenant."),
        "remove": ("directory.tenants:remove", "Remove a tenant that nobody belongs to."),
    },
)
def tenants() -> None:
    """List, show, make, change and remove tenants.

    A tenant has projects, users and keys, and its calls are its own: nobody of another tenant learns of them. Those
    that the settings declare are shown here, and changed only there. Every change is written to the audit log before
    it takes effect; a running server acts on it with its next call, with
    PostgreSQL within two seconds.

    \b
    Exit status: 0 done, 1 refused or failed, 2 a wrong option, a faulty body or faulty settings.
    """


@click.group(
    "users",
    cls=LateGroup,
    short_help="List, show, make, change and remove users.",
    late={
        "list": ("directory.users:listed", "List users."),
        "show": ("directory.users:show", "Show a user."),
        "set": ("directory.users:put", "Make or change a user."),
        "remove": ("directory.users:remove", "Remove a user."),
    },
)
def users() -> None:
    """List, show, make, change and remove the users of a tenant.

    A user's name is the subject that their tokens or certificates have. Somebody need not be a user here to call: what
    is kept here adds roles to those that the identity provider gives, or bounds them. Every change is written to the
    audit log before it takes effect; a running server acts on it with its next call, with PostgreSQL
    within two seconds.

    \b
    Exit status: 0 done, 1 refused or failed, 2 a wrong option, a faulty body or faulty settings.
    """


GROUPS = (audit, break_glass, keys, policy, projects, store, tenants, users)
