"""Somebody who uses the administration of a house, through its real port."""

from __future__ import annotations

from typing import Any

import httpx

from support.house import PLAIN, House
from support.server import ServerProcess
from vestry.roles import Role


class Desk:
    """One person, with a key that has these roles. `ask` sends one request to `/admin/v1` and what follows."""

    def __init__(
        self, house: House | ServerProcess, *roles: Role, tenant: str = "default", owner: str = "tester", **more: Any
    ) -> None:
        self.house, self.tenant, self.owner = house, tenant, owner
        self.key, self.key_id = house.keys.create(tenant=tenant, owner=owner, roles=roles, **more)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """Send it. Names of headers are written with underscores."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        given.setdefault("authorization", f"Bearer {self.key}")
        more: dict[str, Any] = {} if body is None else {"json": body}
        if isinstance(body, bytes):
            more = {"content": body}
            given.setdefault("content-type", "application/json")
        url = f"{self.house.admin}/admin/v1{path}"
        return httpx.request(method, url, headers=given, timeout=20, verify=PLAIN, **more)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.ask("GET", path, **headers)

    def put(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.ask("PUT", path, body, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return self.ask("POST", path, body, **headers)

    def delete(self, path: str, **headers: str) -> httpx.Response:
        return self.ask("DELETE", path, **headers)
