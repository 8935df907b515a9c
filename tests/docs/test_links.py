"""Pages lead somewhere: every link, every address and every command that they name."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest

from support.cli import every_command

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "helm").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
URL = re.compile(r"\bhttps?://[^\s\"'`)>\]|]+")
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^ *```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
NAMES_OF_FILES = re.compile(r"\bdocs/[\w/.-]+\.(?:md|json)\b")
COMMAND = re.compile(
    r"\bvestry(?: --config [\w./-]+)? ([a-z][a-z-]*[a-z])(?: ([a-z][a-z-]*)(?![^\s`]))?((?: [^`\n|]*)?)"
)
LABEL = re.compile(r"vestry (?:origins|sealed content|content hash) v1")
"""What formats begin with: no commands."""
COMMANDS = dict(every_command())
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")

# Standards, and hosts that stand for the reader's own. Nobody's registry, and nothing that a page would have you fetch.
HOSTS = {"127.0.0.1", "host", "www.rfc-editor.org", "jqlang.org", "c2sp.org"}
HOSTS |= {"login.microsoftonline.com", "example.okta.com"}  # issuers of tokens, whose names are theirs
RESERVED = re.compile(r"(^|\.)(example|localhost|svc|svc\.cluster\.local)$|^10(\.\d+){3}$")


def of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The names that headings get (as GitHub makes them): lower case, no punctuation, hyphens for spaces."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", FENCE.sub("", of(page)), re.MULTILINE):
        plain = LINK.sub(lambda link: link[0][1 : link[0].index("]")], heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """A link within the repository names a file that is there, and a heading that it has."""
    broken = []
    for target in LINK.findall(FENCE.sub("", of(page))):
        if urlsplit(target).scheme:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_the_links_are_seen() -> None:
    """The README leads to every page of the documentation, at one step or at two."""
    near = {path for page in (ROOT / "README.md",) for path in _linked(page)}
    far = {path for page in near for path in _linked(page)}
    assert {page for page in PAGES if page.is_relative_to(ROOT / "docs")} <= near | far


def _linked(page: Path) -> set[Path]:
    if page.suffix != ".md":
        return set()
    targets = (target.partition("#")[0] for target in LINK.findall(of(page)))
    return {(page.parent / target).resolve() for target in targets if target and not urlsplit(target).scheme}


def test_pages_that_the_program_names_are_there() -> None:
    """Where code, chart or settings send the reader to a page, it exists."""
    folders = [ROOT / each for each in ("server", "deploy", "helm", "tests")]
    files = [
        each for folder in folders for each in folder.rglob("*") if each.suffix in {".py", ".yaml", ".tpl", ".txt"}
    ]
    named = {
        (found, name(each)) for each in [*files, ROOT / "Dockerfile"] for found in NAMES_OF_FILES.findall(of(each))
    }
    assert named
    assert sorted(pair for pair in named if not (ROOT / pair[0]).is_file()) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_page_names_a_registry(page: Path) -> None:
    """Addresses are the reader's own, made-up ones, or standards: never a host that something would be fetched from."""
    hosts = {urlsplit(url).hostname or "" for url in URL.findall(of(page))}
    assert sorted(host for host in hosts if host not in HOSTS and not RESERVED.search(host)) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_page_names_a_place_of_the_writers_machine(page: Path) -> None:
    """Where the writer's checkout, home and scratch files were is nobody's business."""
    places = {str(ROOT), str(Path.home()), "/home/", "/root/", "/Users/", f"{tempfile.gettempdir()}/"} - {"/"}
    assert sorted(place for place in places if place in of(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_in_pages_exist(page: Path) -> None:
    """Every `vestry` command that a page shows is one, and so are the options that it is shown with."""
    strange = []
    for line in _code(of(page)):
        for first, second, rest in COMMAND.findall(line):
            command = COMMANDS.get(f"vestry {first}")
            if isinstance(command, click.Group) and second:
                command = COMMANDS.get(f"vestry {first} {second}")
            if command is None:
                strange.append(line.strip())
                continue
            known = {option for each in command.params for option in each.opts}
            strange += [line.strip() for option in OPTION.findall(rest) if option not in known | {"--help"}]
    assert strange == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_in_pages_leave_the_reader_where_the_state_is(page: Path) -> None:
    """The state directory is found from where one stands, so a `cd` into it breaks every `vestry` that comes after."""
    lines = [line for block in SHELL.findall(of(page)) for line in block.splitlines()]
    assert [line for line in lines if re.match(r"\s*cd (?!deploy$)", line)] == []


def test_the_commands_are_seen() -> None:
    """Each command of the program is shown in some page outside its own reference."""
    pages = [page for page in PAGES if page.name != "commands.md"]
    seen = {first for page in pages for line in _code(of(page)) for first, *_ in COMMAND.findall(line)}
    assert seen == {path.split()[1] for path in COMMANDS if " " in path}


def _code(text: str) -> list[str]:
    """Lines of shell blocks, and code within lines, that begin with the program's name."""
    lines = [line for block in SHELL.findall(text) for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", FENCE.sub("", LABEL.sub("", text)))
    return [line for line in lines if re.match(r"\s*(\S+/)?vestry ", line)]
