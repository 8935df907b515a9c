"""Writes what the documentation has from the code: pages under `docs/reference/`, and marked parts of other pages.

python deploy/docs.py            write them
python deploy/docs.py --check    change nothing; exit 1 and name those that lag behind the code
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from vestry import errors
from vestry.audit import schema as records
from vestry.errors import EngineFailed, MethodNotAllowed, Refusal
from vestry.models import arguments, catalog, launch
from vestry.roles import Permission, Role, reaches

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT))  # run as a script, only this file's own folder is there

from deploy import reference, reference_admin, reference_fields  # noqa: E402 - as above

ERRORS_HEAD = """\
# Errors

<!-- Made by deploy/docs.py from server/vestry/errors.py. Change it there. -->

Every error, on every path, is OpenAI's error object:

```json
{"error": {
  "message": "`n` may be at most 8.", "type": "invalid_request_error", "param": "n", "code": "invalid_request"
}}
```

- `code` is what programs go by: it is the same in the answer, in the [metrics](metrics.md) (`reason`) and in the
  [record](audit-records.md). `message` is for people, says nothing that the client sent but `param`, and may change.
- `param` names the field, with its place (`messages[0].content[1].type`), where a field is at fault; else it is `null`.
  The message names it as well, since many libraries show nothing else; the record's `reason` does not.
- The header `x-request-id` names the call; give it to the operator, who finds both records of the call by it.
- **Once a stream has begun** its status has been sent: an error is then the last event, `data: {"error": {...}}`, and
  no `data: [DONE]` follows. A stream that ends without either was cut off on its way.
- **Retries.** OpenAI's clients send a call again after 408, 409, 429 and every 5xx, twice unless told otherwise, and
  wait as long as `Retry-After` says; `x-should-retry: false` keeps them from it. Vestry itself has tried a second
  engine by then, where there is one, nothing had been sent yet, and `relay.retry_budget` allowed it.
"""

MARK = re.compile(r"(<!-- made by deploy/docs\.py: ([a-z-]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


# Errors -------------------------------------------------------------------------------------------------------------


def refusals() -> list[type[Refusal]]:
    """Every class of refusals, in the order of their statuses; `Refusal` itself is never given."""
    return sorted(
        (each for each in _classes(errors) if issubclass(each, Refusal) and each is not Refusal),
        key=lambda each: each.status,
    )


def _classes(module: ModuleType) -> Iterator[type]:
    return (each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__)


def said(kind: type[Refusal]) -> tuple[str, str]:
    """What a class of refusals means, and what mends it: both from its docstring. Raises ValueError without them."""
    paragraphs = [" ".join(each.split()) for each in inspect.cleandoc(kind.__doc__ or "").split("\n\n")]
    mends = [each.removeprefix("Mend: ") for each in paragraphs if each.startswith("Mend: ")]
    if not paragraphs[0] or len(mends) != 1:
        raise ValueError(
            f"the docstring of {kind.__name__} needs a meaning and one paragraph that begins with `Mend: `"
        )
    return paragraphs[0], mends[0]


def made(kind: type[Refusal]) -> Refusal:
    """One of these."""
    if kind is MethodNotAllowed:
        return MethodNotAllowed("POST")
    return kind("closed") if issubclass(kind, EngineFailed) else kind()


def retried(kind: type[Refusal]) -> bool:
    """Whether OpenAI's clients send such a call again (openai-python, `_should_retry`)."""
    return kind.retry if kind.retry is not None else kind.status in {408, 409, 429} or kind.status >= 500


def errors_page() -> str:
    """`docs/reference/errors.md`."""
    grouped: dict[tuple[int, str], list[type[Refusal]]] = {}
    for kind in refusals():
        grouped.setdefault((kind.status, kind.code), []).append(kind)
    table = ["| status | code | type | OpenAI's clients retry | connection |", "|---|---|---|---|---|"]
    for (status, code), kinds in grouped.items():
        first = kinds[0]
        cells = (
            str(status),
            f"[`{code}`](#{status}-{code})",
            f"`{first.kind}`",
            "yes" if retried(first) else "no",
            "closes" if first.close else "may stay open",
        )
        table.append(f"| {' | '.join(cells)} |")
    return "\n".join([ERRORS_HEAD, *table, "", *(_section(kinds) for kinds in grouped.values())])


def _section(kinds: list[type[Refusal]]) -> str:
    lines = [f"## {kinds[0].status} `{kinds[0].code}`", ""]
    for kind in kinds:
        refusal, (meaning, mend) = made(kind), said(kind)
        lines += [f"> {refusal.reason}", "", meaning, "", f"**Mend.** {mend}", ""]
    names = [
        f"`{name.decode()}: {value.decode()}`" for name, value in made(kinds[0]).headers() if name != b"connection"
    ]
    if any("`Retry-After`" in said(kind)[0] + said(kind)[1] for kind in kinds):
        names.append("`retry-after`, in whole seconds")
    if names:
        lines += [f"Headers: {', '.join(names)}.", ""]
    return "\n".join(lines)


# Parts of the page about models -------------------------------------------------------------------------------------


def catalog_table() -> str:
    """The models of the catalog."""
    rows = [
        "| entry | licence | context | weights | memory of a GPU | runs on | weights come from |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in catalog.entries().items():
        packaged = isinstance(entry.source, catalog.Package)
        cells = (
            f"`{name}`",
            entry.licence,
            f"{entry.context_length:,}",
            f"{entry.memory.weights:g} GiB",
            f"{entry.memory.gpu} GiB",
            " or ".join(each.upper() for each in entry.devices),
            "a package, by itself" if packaged else f"you: {entry.origin}, revision `{entry.revision[:12]}`",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def allowed_arguments() -> str:
    """The arguments of vLLM that an operator may give."""
    values = sorted(arguments.TUNABLE - arguments.SWITCHES)
    return (
        f"With a value: {', '.join(f'`{each}`' for each in values)}.\n\n"
        f"Without: {', '.join(f'`{each}`' for each in sorted(arguments.SWITCHES))}."
    )


def refused_arguments() -> str:
    """Those that are refused with a reason of their own."""
    rows = [f"| `{name}` | {reason} |" for name, reason in arguments.REASONS.items()]
    return "\n".join(["| argument | why not |", "|---|---|", *rows])


def fixed_arguments() -> str:
    """What every engine is started with."""
    [first, *_] = catalog.entries().values()
    given = launch.fixed(first, 30)
    pairs: list[list[str]] = []
    for word in given:
        if word.startswith("--"):
            pairs.append([word])
        else:
            pairs[-1].append(word)
    return "```text\n" + "\n".join(" ".join(pair) for pair in pairs) + "\n```"


# Roles ---------------------------------------------------------------------------------------------------------------


def roles_table() -> str:
    """What each role may do, and how far it reaches."""
    heads = [f"`{role.value}`" for role in Role]
    rows = [f"| permission | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    rows += [
        f"| `{permission.value}` | {' | '.join(_reach(role, permission) for role in Role)} |"
        for permission in Permission
    ]
    return "\n".join(rows)


def _reach(role: Role, permission: Permission) -> str:
    if not reaches([role], permission, own=True):
        return ""
    whole = permission != Permission.CALL and reaches([role], permission, own=False)
    return "every" if whole else "own"


# Writing ------------------------------------------------------------------------------------------------------------

PAGES: dict[str, Callable[[], str]] = {
    **reference.PAGES,
    "reference/errors.md": errors_page,
    "reference/fields.md": reference_fields.page,
    "reference/admin-api.json": reference_admin.text,
    "reference/admin-api.md": reference_admin.page,
    "reference/audit-records.json": records.text,
    "reference/audit-records.md": records.page,
}
PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "roles.md": {"roles": roles_table},
    "bring-a-model.md": {
        "catalog": catalog_table,
        "allowed-arguments": allowed_arguments,
        "refused-arguments": refused_arguments,
        "fixed-arguments": fixed_arguments,
    },
}


def with_parts(text: str, parts: dict[str, Callable[[], str]]) -> str:
    """A page with its marked parts as they are now. Raises KeyError for a mark that nobody makes, ValueError for
    a part that has no place."""
    found = [name for _, name, _ in MARK.findall(text)]
    if missing := parts.keys() - set(found):
        raise ValueError(f"there is no place for {', '.join(sorted(missing))}")
    return MARK.sub(lambda mark: f"{mark[1]}\n{parts[mark[2]]()}\n\n{mark[3]}", text)


def wanted() -> Iterator[tuple[Path, str]]:
    """What each file should hold."""
    for name, make in PAGES.items():
        yield DOCS / name, make()
    for name, parts in PARTS.items():
        yield DOCS / name, with_parts((DOCS / name).read_text(encoding="utf-8"), parts)


def main(given: list[str]) -> int:
    """Write the pages, or with `--check` compare them. Returns the exit status."""
    if given not in ([], ["--check"]):
        sys.stderr.write("usage: python deploy/docs.py [--check]\n")
        return 2
    lagging = [
        (path, text) for path, text in wanted() if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for path, text in lagging:
        if given:
            sys.stderr.write(f"{path.relative_to(ROOT)} lags behind the code: run `make docs`\n")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"written: {path.relative_to(ROOT)}\n")
    return 1 if given and lagging else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
