"""Where an issuer's keys come from, and what is not taken for keys: from a server that answers as it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey, RSAKey

from support.api_server import ApiServer
from support.tokens import jwks, rsa
from vestry.adapters.tokens.fetching import Asking, from_file
from vestry.adapters.tokens.keysets import BadKeys, KeySet

KEY = rsa("one")
WELL_KNOWN = "/.well-known/openid-configuration"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as running:
        running.show("/keys", jwks(KEY))
        yield running


def asking(server: ApiServer, jwks_uri: str | None = None, ca: Path | None = None, token: str = "") -> Asking:
    return Asking(server.url, jwks_uri, ca=ca or server.ca, seconds=5, token=lambda: token)


def metadata(server: ApiServer, **changes: Any) -> None:
    server.show(WELL_KNOWN, {"issuer": server.url, "jwks_uri": f"{server.url}/keys", **changes})


def test_discovery_leads_to_the_keys(server: ApiServer) -> None:
    """OpenID Connect Discovery: metadata at the issuer, keys where they say."""
    metadata(server)
    assert asking(server)().has("one")
    assert [path for path, _ in server.asked] == [WELL_KNOWN, "/keys"]


def test_the_path_and_query_of_an_address_are_kept(server: ApiServer) -> None:
    """Slash at the end and parameters go over the wire as they stand in the metadata."""
    server.show("/keys/?p=b2c", jwks(KEY))
    metadata(server, jwks_uri=f"{server.url}/keys/?p=b2c")
    assert asking(server)().has("one")


def test_our_token_goes_to_the_issuer_alone(server: ApiServer, tmp_path: Path) -> None:
    """Metadata that lead to another server do not get it our token."""
    folder = tmp_path / "other"
    folder.mkdir()
    with ApiServer(folder) as other:
        other.show("/keys", jwks(KEY))
        both = tmp_path / "both.pem"
        both.write_bytes(server.ca.read_bytes() + other.ca.read_bytes())
        metadata(server, jwks_uri=f"{other.url}/keys")
        assert asking(server, ca=both, token="ours")().has("one")
        assert server.asked == [(WELL_KNOWN, "Bearer ours")]
        assert other.asked == [("/keys", "")]


def test_a_provider_does_not_have_this_machines_own_services_asked(server: ApiServer) -> None:
    """Metadata that came by https lead to https: not to what speaks plain HTTP on loopback here."""
    metadata(server, jwks_uri="http://127.0.0.1:1/keys")
    with pytest.raises(BadKeys, match="no `jwks_uri` that is https"):
        asking(server)()


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "https://other.test"},
        {"issuer": None},
        {"jwks_uri": None},
        {"jwks_uri": 5},
        {"jwks_uri": "http://idp.test/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "https://user:word@127.0.0.1/keys"},
        {"jwks_uri": "https://[broken/keys"},
        {"jwks_uri": "https://127.0.0.1:1/a b\r\nX: y"},
    ],
)
def test_metadata_that_lead_astray_are_refused(server: ApiServer, changes: dict[str, Any]) -> None:
    """Another issuer's, or keys somewhere that is not https: nothing is taken, and nothing else is raised."""
    metadata(server, **changes)
    with pytest.raises(BadKeys):
        asking(server)()


def test_what_metadata_say_is_no_word_to_a_terminal(server: ApiServer) -> None:
    """A host with an escape in it is none, and what is wrong stands in the log without it."""
    metadata(server, jwks_uri="https://\x1bc.idp.test/keys")
    with pytest.raises(BadKeys) as refused:
        asking(server)()
    assert str(refused.value).isprintable()


def test_answers_that_are_no_keys_are_refused(server: ApiServer) -> None:
    """Redirects are not followed; answers are bounded; what is no JWKS says so."""
    at = f"{server.url}/keys"
    server.show("/moved", jwks(KEY))
    for status, body, more in (
        (302, b"", {"Location": f"{server.url}/moved"}),
        (500, json.dumps(jwks(KEY)).encode(), {}),
        (200, b"x" * 70_000, {}),
        (200, b"[]", {}),
        (200, b'{"keys": {}}', {}),
        (200, b'{"keys": [5, null]}', {}),
        (200, b'{"keys": null}', {}),
        (200, b"[" * 60_000, {}),
        (200, json.dumps({"keys": [{}] * 65}).encode(), {}),
    ):
        server.show("/keys", body, status, **more)
        with pytest.raises(BadKeys):
            asking(server, at)()
    assert "/moved" not in [path for path, _ in server.asked]


def test_a_certificate_of_nobodys_is_refused(server: ApiServer) -> None:
    """Without the authority in the settings, the provider is not believed to be itself."""
    with pytest.raises(BadKeys, match="certificate"):
        Asking(server.url, f"{server.url}/keys", ca=None, seconds=5, token=str)()
    assert server.asked == []


def test_keys_that_may_not_verify_are_left_out(tmp_path: Path) -> None:
    """Weak, private, symmetric, for encryption, of a curve that is not ours, or no key at all."""
    good = ECKey.generate_key("P-256", {"kid": "good"}, private=True)
    weak = RSAKey.generate_key(1024, {"kid": "weak"}, private=True)
    encrypting = {**rsa("enc").as_dict(private=False), "use": "enc"}
    wrapping = {**rsa("wrap").as_dict(private=False), "key_ops": ["wrapKey"]}
    secret = OctKey.generate_key(256, {"kid": "secret"}, private=True)
    private = rsa("private").as_dict(private=True)
    others: list[Any] = [encrypting, wrapping, private, secret.as_dict(), {"kty": "RSA", "kid": "empty"}, 5, None]
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [*others, *jwks(weak, good)["keys"]]}))
    found: KeySet = from_file(file)()
    assert [each for each in ("good", "weak", "enc", "wrap", "private", "secret", "empty") if found.has(each)] == [
        "good"
    ]
    for content in (b'{"keys": []}', b'{"keys": [{"kty": "oct", "k": "AAAA"}]}'):
        file.write_bytes(content)
        assert from_file(file)().empty
        assert not from_file(file)().has(None)
    for content in (b"", b"x" * 70_000):
        file.write_bytes(content)
        with pytest.raises(BadKeys):
            from_file(file)()
    with pytest.raises(BadKeys, match="cannot be read"):
        from_file(tmp_path / "none")()
    with pytest.raises(BadKeys, match="not a regular file"):
        from_file(tmp_path)()
