"""Names in certificates have one written form, and a star never stands for what parts them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestry.san import MOST, normal, pattern

FITS = [
    ("DNS:ct.radiology.internal", "DNS:ct.radiology.internal"),
    ("DNS:CT.Radiology.internal", "DNS:ct.radiology.internal"),
    ("DNS:*.radiology.internal", "DNS:ct_1-a.radiology.internal"),
    ("DNS:ct-*.radiology.internal", "DNS:ct-1.radiology.internal"),
    ("DNS:*.*.internal", "DNS:ct.radiology.internal"),
    ("URI:spiffe://hospital.example/ns/*/sa/triage", "URI:spiffe://hospital.example/ns/er/sa/triage"),
    ("URI:spiffe://hospital.example/ns/*/sa/triage", "URI:spiffe://hospital.example/ns/v1.2/sa/triage"),
    ("URI:SPIFFE://Hospital.example/ns/*", "URI:spiffe://hospital.example/ns/er"),
    ("URI:spiffe://*.example/ns/a", "URI:spiffe://hospital.example/ns/a"),
    ("URI:spiffe://hospital.example/run-*/x-*", "URI:spiffe://hospital.example/run-1/x-2"),
    ("URI:urn:example:*", "URI:urn:example:ct"),
    ("email:*@hospital.example", "email:alice.smith+x@hospital.example"),
    ("email:alice@*.example", "email:alice@hospital.example"),
    ("IP:10.1.0.0/16", "IP:10.1.2.3"),
    ("IP:2001:db8::/32", "IP:2001:db8::7"),
    ("IP:10.1.2.3", "IP:10.1.2.3"),
]
DOES_NOT = [
    ("DNS:*.radiology.internal", "DNS:a.b.radiology.internal"),
    ("DNS:*.radiology.internal", "DNS:radiology.internal"),
    ("DNS:*.radiology.internal", "DNS:.radiology.internal"),
    ("DNS:*.radiology.internal", "DNS:a.radiology.internal.evil"),
    ("DNS:a.internal", "DNS:aXinternal"),
    ("DNS:a.internal", "URI:a.internal"),
    ("URI:spiffe://hospital.example/ns/*/sa/triage", "URI:spiffe://hospital.example/ns/a/b/sa/triage"),
    ("URI:spiffe://hospital.example/ns/*/sa/triage", "URI:spiffe://hospital.example/ns//sa/triage"),
    ("URI:spiffe://hospital.example/ns/*/sa/triage", "URI:spiffe://hospital.example/ns/a%2Fb/sa/triage"),
    ("URI:spiffe://hospital.example/ns/*", "URI:spiffe://hospital.example/ns/a?b"),
    ("URI:spiffe://hospital.example/NS/a", "URI:spiffe://hospital.example/ns/a"),
    ("URI:spiffe://*.example/ns/a", "URI:spiffe://a.b.example/ns/a"),
    ("URI:spiffe://*.example/ns/a", "URI:spiffe://u@b.example/ns/a"),
    ("URI:urn:example:*", "URI:urn:example:ct:1"),
    ("email:*@hospital.example", "email:alice@evil@hospital.example"),
    ("email:*@hospital.example", "email:alice@hospital.example.evil"),
    ("IP:10.1.0.0/16", "IP:10.2.0.1"),
    ("IP:10.1.0.0/16", "IP:::ffff:10.1.0.1"),
]


@pytest.mark.parametrize(("rule", "name"), FITS)
def test_a_pattern_fits(rule: str, name: str) -> None:
    """A star is one or more characters of one part."""
    assert pattern(rule)(name)


@pytest.mark.parametrize(("rule", "name"), DOES_NOT)
def test_a_pattern_does_not_fit(rule: str, name: str) -> None:
    """Never across a dot of a host or a slash of a path, however it is hidden."""
    assert not pattern(rule)(name)


@pytest.mark.parametrize(
    "text",
    ["", "*", "ct.internal", "DNS:", "DNS:**", "DNS:a*b*.x", "dns:a", "CN:a", "URI:/path", "URI:*://x/y", "URI:sp*://x/y",
     "URI:spiffe://a/../b", "URI:spiffe://a/*.*", "email:alice", "email:@x", "email:*.*@x", "IP:a", "IP:10.0.0.1/8",
     "DNS:a b", "DNS:ä.example", "DNS:" + "a" * MOST],
)  # fmt: skip
def test_what_is_no_pattern_is_refused(text: str) -> None:
    """With a sentence, when the settings are read."""
    with pytest.raises(ValueError, match=r"."):
        pattern(text)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("DNS", "*.example"), ("DNS", ""), ("DNS", "a b"), ("DNS", "a\x00"), ("URI", "no-scheme"), ("URI", "a:/./b"),
     ("URI", "spiffe://a/b/.."), ("email", "alice"), ("IP", "10.0.0.0/8"), ("DNS", "a" * MOST), ("other", "a")],
)  # fmt: skip
def test_what_cannot_name_one_holder_is_no_name(kind: str, value: str) -> None:
    """Wildcards, odd characters, steps of a path."""
    assert normal(kind, value) is None


@given(st.sampled_from(["DNS", "URI", "email", "IP", "x"]), st.text(max_size=600))
def test_a_name_is_its_own_written_form(kind: str, value: str) -> None:
    """Written once or twice it is the same; and it fits itself as a pattern, and is short."""
    name = normal(kind, value)
    if name is not None:
        assert normal(kind, name.partition(":")[2]) == name
        assert pattern(name)(name)
        assert len(name) <= MOST


@given(st.text(max_size=100))
def test_a_text_is_a_pattern_or_a_fault_of_the_settings(text: str) -> None:
    """Nothing but ValueError comes of a rule that somebody wrote."""
    try:
        fits = pattern(text)
    except ValueError:
        return
    assert not fits("DNS:nobody's")


def test_no_name_takes_long_to_compare() -> None:
    """Whoever chooses the name: a thousand comparisons of the longest in well under a second."""
    fits = pattern("URI:spiffe://*.*.*.*.example/*/*/*/*/*/*/x")
    name = "URI:spiffe://a.a.a.a.example/" + "a/" * 230
    began = time.process_time()
    for _ in range(1000):
        assert not fits(name)
    assert time.process_time() - began < 1
