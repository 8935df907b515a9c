"""Canaille on 127.0.0.1, its data in memory. Its settings are one JSON object on standard input: port (0 is a free
one), keys (JWKs with private parts, the first one signs), client, secret, redirect, and users by login with their
passwords. It prints its issuer once it listens.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from canaille import create_app
from canaille.app import models
from canaille.backends import Backend
from canaille.backends.memory.backend import MemoryBackend


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing."""


def main() -> None:
    asked = json.load(sys.stdin)
    logging.disable()
    with make_server("127.0.0.1", asked["port"], lambda *_: [], handler_class=Quiet) as server:
        host = f"127.0.0.1:{server.server_port}"
        config = {
            "SECRET_KEY": "tests",
            "SERVER_NAME": host,
            "PREFERRED_URL_SCHEME": "http",
            "CANAILLE": {"DATABASE": "memory", "SMTP": None, "JAVASCRIPT": False, "HTMX": False},
            "CANAILLE_OIDC": {"ACTIVE_JWKS": asked["keys"], "TRUSTED_DOMAINS": ["127.0.0.1"]},
        }
        backend = MemoryBackend(config)
        app = create_app(config=config, backend=backend, env_file=None)
        with app.app_context(), backend.session():
            for login, password in asked["users"].items():
                mail = f"{login}@a.test"
                person = models.User(user_name=login, formatted_name=login, family_name=login, emails=[mail])
                Backend.instance.save(person)
                Backend.instance.set_user_password(person, password)
            client = models.Client(
                client_id=asked["client"],
                client_secret=asked["secret"],
                client_name="Triage",
                client_uri="http://127.0.0.1/",
                redirect_uris=[asked["redirect"]],
                grant_types=["authorization_code", "client_credentials"],
                response_types=["code"],
                scope=["openid", "profile", "email"],
                token_endpoint_auth_method="client_secret_basic",
                id_token_signed_response_alg="RS256",
            )
            Backend.instance.save(client)
            client.audience = [client]
            Backend.instance.save(client)
        server.set_app(app)
        print(f"http://{host}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
