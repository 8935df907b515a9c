"""Tokens of Kubernetes service accounts: a pod calls with the token that is mounted into it, and needs no other secret.

The API server is a fake: what it says is what a real one does at these paths (Kubernetes' "Service account issuer
discovery"), over TLS with an authority of its own.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import openai
import pytest

from fakes.engine import FakeEngine
from support.api_server import ApiServer
from support.house import House, until
from support.tokens import jwks, rsa, signed

KEY = rsa("cluster")
ISSUER = "https://kubernetes.default.svc.cluster.local"
MESSAGES: Any = [{"role": "user", "content": "Hello"}]


def projected(namespace: str = "radiology", account: str = "triage", **changes: Any) -> str:
    """A projected token, with the claims that Kubernetes gives it."""
    now = int(time.time())
    said = {
        "aud": ["vestry"],
        "exp": now + 3607,
        "iat": now,
        "nbf": now,
        "iss": ISSUER,
        "jti": "3b0a1a9e-0d5c-4b7e-8d41-0c4c6f6c9b1e",
        "kubernetes.io": {
            "namespace": namespace,
            "node": {"name": "gpu-1", "uid": "7a0e8c86-2d6f-4a0e-8a54-0b6f3f8f9a11"},
            "pod": {"name": "triage-0", "uid": "0d4f9a3e-6a51-4f55-9f0e-1f2b3c4d5e6f"},
            "serviceaccount": {"name": account, "uid": "5c1b2a3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"},
        },
        "sub": f"system:serviceaccount:{namespace}:{account}",
        **changes,
    }
    return signed(KEY, said, typ=None)


def settings(server: ApiServer, token: Path) -> dict[str, Any]:
    return {
        "name": "cluster",
        "issuer": ISSUER,
        "audiences": ["vestry"],
        "jwks_uri": f"{server.url}/openid/v1/jwks",
        "ca": str(server.ca),
        "token": str(token),
        "grants": [
            {
                "when": [{"claim": ["kubernetes.io", "serviceaccount", "name"], "values": ["triage"]}],
                "tenant_claim": ["kubernetes.io", "namespace"],
                "tenants": {"radiology": "default"},
            }
        ],
    }


def test_a_pods_token_is_its_key(tmp_path: Path) -> None:
    """The keys come from the API server, which wants our own token; the namespace gives the tenant.

    The token file is read each time, because Kubernetes renews it.
    """
    mine = tmp_path / "token"
    mine.write_text("ours-1\n")
    mine.chmod(0o640)  # as the kubelet leaves it where a pod has runAsUser and fsGroup
    with ApiServer(tmp_path, token="ours-1") as server, FakeEngine() as engine:
        server.show("/openid/v1/jwks", jwks(KEY))
        with House(tmp_path / "state", [engine], identity={"issuers": [settings(server, mine)]}) as house:
            client = house.client(projected())
            assert client.chat.completions.create(model="small", messages=MESSAGES).choices
            intent = house.records("intent")[-1]
            assert (intent["tenant"], intent["subject"]) == ("default", "system:serviceaccount:radiology:triage")
            for bad in (projected("cardiology"), projected(account="other"), projected(aud=["https://kubernetes"])):
                with pytest.raises(openai.AuthenticationError):
                    house.client(bad).models.list()
            server.token = "ours-2"
            keys = house.issuer
            house.read_issuer()
            until(lambda: keys.failures, what="the old token to be refused")
            mine.write_text("ours-2\n")
            house.read_issuer()
            until(lambda: not keys._fault, what="the new token to be taken")
