"""`vestry apply`: make the directory as files declare it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from vestry.admin.batch import Refused, SetKey
from vestry.administration import ChangeRefused, Office, change, look
from vestry.commands.common import settings_of
from vestry.commands.directory.bodies import text_of
from vestry.commands.directory.common import safe, told
from vestry.commands.unusable import Unusable
from vestry.declaring import differences as telling
from vestry.declaring.files import Declared, read
from vestry.declaring.plan import Difference, plan
from vestry.errors import Conflict, PreconditionFailed
from vestry.faults import Fault
from vestry.settings.tree import Settings

LARGEST_FILE = 8_388_608
DIFFERENT = 3


class BadFiles(Unusable):
    """The files cannot be applied: every fault, one a line."""

    def __init__(self, faults: Sequence[Fault], *, as_json: bool) -> None:
        super().__init__("\n".join(f"- {fault}" for fault in faults))
        self.faults, self._as_json = faults, as_json

    def show(self, file: object = None) -> None:  # noqa: ARG002 - click's
        if self._as_json:
            said = {"valid": False, "faults": [msgspec.structs.asdict(each) for each in self.faults]}
            click.echo(json.dumps(said, indent=2))
            return
        number = len(self.faults)
        head = f"The files have {number} fault{'s' * (number != 1)}, and nothing was changed:"
        click.echo(f"{head}\n{safe_lines(self.message)}", err=True)


def safe_lines(text: str) -> str:
    """A text of several lines for a terminal."""
    return "\n".join(map(safe, text.split("\n")))


@click.command("apply", short_help="Make tenants, projects, users and policy as files declare them.")
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="File with what shall be, YAML; `-` is standard input. May be repeated.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print what would be done, and do nothing. Status 3 if there is anything."
)
@click.option("--prune", is_flag=True, help="Remove tenants, projects, users and the policy that no file declares.")
@click.option("--yes", is_flag=True, help="Do not ask before something is removed or revoked.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(
    config: Path | None, /, *, files: tuple[Path, ...], dry_run: bool, prune: bool, yes: bool, as_json: bool
) -> None:
    """Make the directory as the files declare it: all of it in one transaction, each change a record; or none of it.

    The files declare tenants with their projects and users, the policy, and states of keys (`active`, `frozen`,
    `revoked`). What a body leaves out has its default. What is as declared is left alone, so a second run changes
    nothing and records nothing. What no file declares is left alone too, unless --prune is given; keys always are.
    docs/tenants.md shows such a file.

    \b
    Exit status: 0 done, or nothing to do; 1 refused or failed; 2 for files or settings with faults, each named with
    its line and the mend; 3 when --dry-run finds something to do.

    \b
    Examples:
      vestry apply --file tenants.yaml --dry-run
      vestry apply --file tenants.yaml
      vestry apply --file hospital/ward.yaml --file hospital/research.yaml --prune --yes
    """
    settings = settings_of(config)
    declared = _read(files, settings)
    if declared.faults:
        raise BadFiles(declared.faults, as_json=as_json)
    with told():
        found = look(settings, lambda office: _planned(office, declared, prune=prune, as_json=as_json))
        if dry_run or not found:
            _tell(found, applied=False, as_json=as_json, shown=True)
            raise click.exceptions.Exit(DIFFERENT if found and dry_run else 0)
        if not as_json:
            _show(found)
        _ask(found, yes=yes, asks=Path("-") not in files)
        change(settings, lambda office: _do(office, found))
    _tell(found, applied=True, as_json=as_json, shown=False)


def _read(files: Sequence[Path], settings: Settings) -> Declared:
    texts: dict[str, str] = {}
    for file in files:
        name = "standard input" if file == Path("-") else str(file)
        if name in texts:
            raise click.UsageError(f"{name} is given twice.")
        texts[name] = text_of(file, LARGEST_FILE)
    return read(texts, settings)


async def _planned(office: Office, declared: Declared, *, prune: bool, as_json: bool) -> list[Difference]:
    """What has to be done, judged as if it were done. Raises BadFiles."""
    made = await plan(office.directory, office.settings, declared, prune=prune)
    faults = [*made.faults]
    try:
        await office.batch.rehearse(office.actor, [each.step for each in made.differences])
    except Refused as refused:
        for number, refusal in refused.refusals.items():
            difference = made.differences[number]
            what = refusal.reason.rstrip(".") + (f" (`{refusal.param}`)" if refusal.param else "")
            mend = f"About the {telling.title(difference)}"
            faults.append(Fault(difference.place, what, mend))
    if faults:
        raise BadFiles(faults, as_json=as_json)
    return made.differences


async def _do(office: Office, found: Sequence[Difference]) -> int:
    """Raises ChangeRefused."""
    try:
        return await office.batch.do(office.actor, [each.step for each in found])
    except Refused as refused:
        number, refusal = next(iter(refused.refusals.items()))
        if isinstance(refusal, PreconditionFailed | Conflict):
            raise ChangeRefused(
                "Nothing was changed: somebody else changed something meanwhile. Run it again."
            ) from None
        what = telling.title(found[number])
        raise ChangeRefused(f"Nothing was changed: {what}: {refusal.reason}") from None


def _ask(found: Sequence[Difference], *, yes: bool, asks: bool) -> None:
    """Ask before what cannot be undone by applying again. Raises click's exceptions."""
    ended = [
        each for each in found if each.new is None or (isinstance(each.step, SetKey) and each.step.state == "revoked")
    ]
    if yes or not ended:
        return
    if not asks or not sys.stdin.isatty():
        raise click.ClickException("Something would be removed or revoked, and nobody can be asked: give --yes.")
    click.confirm("Remove and revoke what is said above?", abort=True, err=True)


def _show(found: Sequence[Difference]) -> None:
    for line in telling.lines(found):
        click.echo(safe(line))


def _tell(found: Sequence[Difference], *, applied: bool, as_json: bool, shown: bool) -> None:
    if as_json:
        click.echo(json.dumps(telling.as_json(found, applied=applied), indent=2))
        return
    if shown:
        _show(found)
    click.echo(telling.summary(found, done=applied))
