"""What the page on client certificates says is true: its settings, its table, its bounds, its snippet."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any

import openai
import pytest

from vestry.configuration.reading import load
from vestry.edge.certificates import FORMS, MOST_BYTES, MOST_NAMES
from vestry.san import MOST, normal, pattern

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "certificates.md").read_text(encoding="utf-8")
BLOCKS = dict(enumerate(re.findall(r"```yaml\n((?:identity|server):.*?)```", PAGE, re.DOTALL)))
TENANTS = "tenants: {emergency: {}, radiology: {}, staff: {}}\n"


@pytest.mark.parametrize("number", BLOCKS)
def test_the_settings_on_the_page_are_good(number: int, tmp_path: Path) -> None:
    """The program's own reader takes them as they stand."""
    file = tmp_path / "vestry.yaml"
    file.write_text(TENANTS + BLOCKS[number])
    assert load(file, {}).server.sees_certificates


def test_every_header_has_its_row() -> None:
    """The table of headers is the one of the code."""
    assert len(BLOCKS) == 2
    assert set(re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE)) == set(FORMS)


def test_bounds_on_the_page() -> None:
    """Lengths, numbers and sizes."""
    assert f"longer than {MOST - 6} characters" in " ".join(PAGE.split())
    assert normal("DNS", "a" * (MOST - 6))
    assert not normal("DNS", "a" * (MOST - 5))
    assert f"more than {MOST_NAMES} names" in " ".join(PAGE.split())
    assert f"larger than {MOST_BYTES // 1024} KiB" in PAGE
    assert pattern("URI:spiffe://cluster.local/ns/*/sa/*")("URI:spiffe://cluster.local/ns/NAMESPACE/sa/ACCOUNT")


def test_the_snippet_makes_a_client_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code shown, run as it stands but for the file: no request of the client has a key."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", lambda *_: None)
    names: dict[str, Any] = {}
    exec(code, names)
    client = names["client"]
    assert isinstance(client, openai.OpenAI)
    request = names["http"].build_request("GET", "https://vestry.example/v1/models", headers=client.auth_headers)
    assert "authorization" in request.headers
    for hook in names["http"].event_hooks["request"]:
        hook(request)
    assert "authorization" not in request.headers
