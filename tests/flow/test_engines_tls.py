"""Engines at `https://`: certificates of a private authority, which may change while the server runs."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from fakes.engine import FakeEngine
from support.certificates import Clients
from support.house import House, chat, until
from support.outcomes import content
from support.wire import Wire, chat_request

ANSWER = "The capital of France is Paris."


def trust(file: Path, *authorities: trustme.CA) -> None:
    """Put these in the place of what the file holds, as whoever renews certificates does."""
    draft = file.with_suffix(".new")
    draft.write_bytes(b"".join(each.cert_pem.bytes() for each in authorities))
    draft.replace(file)


@contextmanager
def secured(folder: Path) -> Iterator[tuple[FakeEngine, House]]:
    """An engine with a certificate, and a server that trusts its authority."""
    authority, file = trustme.CA(), folder / "engines.crt"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trust(file, authority)
    with FakeEngine(tls=context) as engine, House(folder / "state", [engine], relay={"ca": file}) as house:
        yield engine, house


def test_an_authority_of_the_house_is_trusted_and_may_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A new authority counts for the next connection; a file that cannot be used leaves the one before, and is told."""
    old, new = trustme.CA(), trustme.CA()
    context, file = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tmp_path / "engines.crt"
    old.issue_cert("127.0.0.1").configure_cert(context)
    trust(file, old)
    with FakeEngine(tls=context) as engine:
        engine.behave(close_when_done=True)
        with House(tmp_path / "state", [engine], relay={"ca": file}) as house:
            assert content(house.post(json=chat())) == ANSWER
            trust(file)
            assert content(house.post(json=chat())) == ANSWER
            assert "the changed certificates" in caplog.text
            new.issue_cert("127.0.0.1").configure_cert(context)
            until(lambda: house.post(json=chat()).status_code == 503, what="the engine to be out of reach")
            assert "its certificate is not accepted" in caplog.text
            trust(file, old, new)
            until(lambda: house.post(json=chat()).status_code == 200, what="the engine to be back")
            old.issue_cert("127.0.0.1").configure_cert(context)
            assert content(house.post(json=chat())) == ANSWER


def test_a_long_answer_is_whole_though_its_connection_closes(tmp_path: Path) -> None:
    """What there is to read when the end of a connection comes is read."""
    with secured(tmp_path) as (engine, house):
        engine.behave(words=("word " * 400_000,), close_when_done=True)
        for _ in range(10):
            assert len(content(house.post(json=chat()))) == 2_000_000


def test_a_slow_reader_has_the_whole_stream_though_the_engine_has_closed(tmp_path: Path) -> None:
    """What the engine has written by then waits for the client, as it does without TLS."""
    with secured(tmp_path) as (engine, house):
        engine.behave(words=("word " * 100,) * 2000, close_when_done=True)
        with Wire(house.port, receive_buffer=4096) as slow:
            slow.send(chat_request(house.key, chat(stream=True)))
            until(lambda: engine.calls and engine.calls[0].finished, what="the end of the engine's answer")
            assert slow.answer().text.endswith("data: [DONE]\n\n")
        until(lambda: house.records("outcome"), what="the record")
        assert house.records("outcome")[0]["ending"] == "complete"


def test_the_same_authorities_are_trusted_with_every_python(tmp_path: Path) -> None:
    """One with no more extensions than it needs, which Python 3.13 and newer refuse by themselves; and one that another
    has signed, alone in the file, which older ones refuse."""
    plain, issuing = Clients(), trustme.CA().create_child_ca()
    served = {name: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for name in ("plain", "issuing")}
    plain.issue("IP:127.0.0.1").load(served["plain"], tmp_path)
    issuing.issue_cert("127.0.0.1").configure_cert(served["issuing"])
    for name, pem in (("plain", plain.pem), ("issuing", issuing.cert_pem.bytes())):
        file = tmp_path / f"{name}.crt"
        file.write_bytes(pem)
        with FakeEngine(tls=served[name]) as engine, House(tmp_path / name, [engine], relay={"ca": file}) as house:
            assert content(house.post(json=chat())) == ANSWER
