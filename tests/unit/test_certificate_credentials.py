"""Certificates as credentials: rules first, then the directory, then memory; nobody costs nothing."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from msgspec import convert

from fakes.calls import head
from fakes.directory import FakeDirectory
from vestry.adapters.certificates import CertificateCredentials, Grant
from vestry.admin.bodies import User, plain
from vestry.errors import KeysUnavailable
from vestry.roles import Role
from vestry.san import pattern
from vestry.types import Certificate, Document, Head, Kind, Limits, Principal, Via
from vestry.user import Said, with_user

T = TypeVar("T")
TRIAGE = "URI:spiffe://hospital.example/ns/er/sa/triage"
USER = frozenset({Role.USER})
GRANTS = [
    Grant(pattern("URI:spiffe://hospital.example/ns/*/sa/triage"), "er", USER),
    Grant(
        pattern("DNS:*.lab.internal"),
        "lab",
        frozenset({Role.AUDITOR}),
        frozenset({"small", "large"}),
        "assays",
        "lab robots",
        (ipaddress.ip_network("10.0.0.0/8"),),
    ),
]


def showing(*names: str, thumbprint: str = "t1") -> Head:
    """A request with a certificate."""
    return head(certificate=Certificate(thumbprint, names, 0, 2**53))


def ran(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def found(credentials: CertificateCredentials, asked: Head) -> Principal | None:
    """As authenticate asks."""
    return credentials.known(asked) or await credentials.find(asked)


def test_a_rule_makes_a_principal() -> None:
    """With all that the rule gives; the name is the subject where the rule has none."""

    async def run() -> tuple[Principal | None, Principal | None]:
        directory = FakeDirectory()
        credentials = CertificateCredentials(GRANTS, directory, directory)
        return await found(credentials, showing("DNS:x", TRIAGE)), await found(
            credentials, showing("DNS:a.lab.internal", thumbprint="t2")
        )

    triage, robot = ran(run())
    assert triage is not None
    assert triage == Principal(triage.key_id, "er", TRIAGE, via=Via.CERTIFICATE)
    assert robot == Principal(
        robot.key_id if robot else "",
        "lab",
        "lab robots",
        frozenset({Role.AUDITOR}),
        frozenset({"small", "large"}),
        project="assays",
        sources=(ipaddress.ip_network("10.0.0.0/8"),),
        via=Via.CERTIFICATE,
    )
    assert triage.key_id.startswith("crt_")
    assert len(triage.key_id) == 20
    assert triage.key_id != robot.key_id


def test_a_long_name_is_a_subject_within_bounds() -> None:
    """Records bound a subject: two long names that begin alike stay two."""
    long = "URI:spiffe://hospital.example/" + "a" * 300
    grant = Grant(pattern("URI:spiffe://hospital.example/*"), "er", USER)
    one, two = grant.holder(long), grant.holder(long + "b")
    assert len(one.subject) == len(two.subject) == 128
    assert one.subject != two.subject


def test_nobody_costs_no_look_up_and_somebody_one() -> None:
    """No rule, or no certificate: the directory is not asked. Who is known is asked for once."""

    async def run() -> None:
        directory = FakeDirectory()
        credentials = CertificateCredentials(GRANTS, directory, directory)
        for asked in (head(), showing(), showing("DNS:x"), showing("DNS:lab.internal")):
            assert await found(credentials, asked) is None
        assert directory.asked == 0
        everybody = await asyncio.gather(*(found(credentials, showing(TRIAGE)) for _ in range(20)))
        assert len(set(everybody)) == 1
        assert directory.asked == 1
        assert credentials.known(showing(TRIAGE)) == everybody[0]

    ran(run())


def test_an_unreadable_directory_is_no_wrong_certificate() -> None:
    """503 for whoever fits a rule; who fits none is still nobody. It recovers by itself."""

    async def run() -> None:
        directory = FakeDirectory()
        credentials = CertificateCredentials(GRANTS, directory, directory)
        directory.broken = True
        with pytest.raises(KeysUnavailable):
            await found(credentials, showing(TRIAGE))
        assert await found(credentials, showing("DNS:x")) is None
        directory.broken = False
        assert await found(credentials, showing(TRIAGE)) is not None

    ran(run())


def test_a_change_in_the_directory_is_seen_at_once() -> None:
    """A disabled user is nobody; enabled again, somebody."""

    async def run() -> None:
        directory = FakeDirectory()
        credentials = CertificateCredentials(GRANTS, directory, directory)
        for disabled in (False, True, False):
            async with directory.changing() as change:
                await change.put(Kind.USER, "er", TRIAGE, {"disabled": disabled})
            assert (await found(credentials, showing(TRIAGE)) is None) == disabled

    ran(run())


def test_memory_is_bounded() -> None:
    """Whoever has many certificates does not fill the server: the oldest are asked for again."""

    async def run() -> None:
        directory = FakeDirectory()
        credentials = CertificateCredentials(GRANTS, directory, directory, most=2)
        for number in (1, 2, 3):
            assert await found(credentials, showing(TRIAGE, thumbprint=str(number)))
        known = [credentials.known(showing(TRIAGE, thumbprint=str(number))) is not None for number in (1, 2, 3)]
        assert known == [False, True, True]

    ran(run())


WHO = Principal("crt_1", "er", "alice", models=frozenset({"small", "large"}), project="p")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, Principal("crt_1", "er", "alice", models=frozenset({"small", "large"}), project="p")),
        ({"disabled": True}, None),
        (
            {"roles": ["auditor"], "models": ["large", "other"], "project": "q", "concurrency": 2},
            Principal(
                "crt_1", "er", "alice", USER | {Role.AUDITOR}, frozenset({"large"}), Limits(2, None), project="q"
            ),
        ),
        ({"models": ["other"], "requests_per_minute": 5}, Principal(
            "crt_1", "er", "alice", models=frozenset(), limits=Limits(None, 5), project="p"
        )),
    ],
)  # fmt: skip
def test_a_user_of_the_directory_adds_to_the_credential(body: dict[str, Any], expected: Principal | None) -> None:
    """More roles; never more models than the credential has; bounds and project are the user's."""
    assert with_user(WHO, Document(Kind.USER, "er", "alice", body)) == expected


@pytest.mark.parametrize(
    "body",
    [{"roles": ["chief"]}, {"models": "small"}, {"disabled": "no"}, {"concurrency": 0}, {"project": 1}, {"more": 1}],
)
def test_a_user_that_no_program_has_written_is_told_from_one_who_may_call(body: dict[str, Any]) -> None:
    """It may be one who is disabled: nobody is let in by it, and the fault names it."""
    with pytest.raises(KeysUnavailable) as fault:
        with_user(WHO, Document(Kind.USER, "er", "alice", body))
    assert "the user er/alice" in getattr(fault.value, "why", "")


def test_models_that_nothing_bounds_are_those_of_the_user() -> None:
    """A credential without a bound, and one that has no model left."""
    user = Document(Kind.USER, "er", "alice", {"models": ["small"]})
    free, none = Principal("crt_1", "er", "alice"), Principal("crt_1", "er", "alice", models=frozenset())
    assert [each and each.models for each in (with_user(free, user), with_user(none, user))] == [{"small"}, frozenset()]
    assert with_user(free, None) is free


def test_a_user_says_here_what_the_administration_writes() -> None:
    """The form is there twice, because calls know no settings: a field that stands in one alone would be damage."""
    assert set(Said.__struct_fields__) == set(User.model_fields)
    said = convert(plain(User()), Said)
    assert said == Said()
