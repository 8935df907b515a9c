"""The metrics of identity: tokens by issuer and result, and the age of issuers' keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily


class Keys(Protocol):
    """An issuer's keys, as far as they are counted."""

    name: str
    failures: int

    @property
    def age(self) -> float: ...


class IdentityMeter:
    """Counts tokens; asks the issuers' keys for their age when it is collected."""

    def __init__(self) -> None:
        self.issuers: Iterable[Keys] = ()
        self._tokens: Counter[tuple[str, str]] = Counter()

    def token(self, issuer: str, result: str) -> None:
        """A token was looked at, that memory did not know. `result` is accepted, refused or failed."""
        self._tokens[issuer, result] += 1

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """As prometheus_client asks."""
        tokens = CounterMetricFamily(
            "vestry_tokens_verified", "Tokens that were verified, or were not.", labels=["issuer", "result"]
        )
        for (issuer, result), count in self._tokens.items():
            tokens.add_metric([issuer, result], count)
        yield tokens
        age = GaugeMetricFamily(
            "vestry_issuer_keys_age_seconds", "Seconds since an issuer's keys were read.", labels=["issuer"]
        )
        failures = CounterMetricFamily(
            "vestry_issuer_key_failures", "Times that an issuer's keys could not be read.", labels=["issuer"]
        )
        for each in self.issuers:
            age.add_metric([each.name], each.age)
            failures.add_metric([each.name], each.failures)
        yield age
        yield failures
