"""Authorization is a pure function: a grant, or a refusal that tells nothing of what others may use."""

from __future__ import annotations

import pytest

from fakes.calls import call, head
from support.house import served_model
from vestry.authorize import authorize, bounded, limits_of, may_use
from vestry.errors import ContextLengthExceeded, InvalidRequest, ModelNotFound
from vestry.house import House
from vestry.settings.tree import Tenant
from vestry.types import Limits, Principal

MODELS = {"small": served_model("small"), "large": served_model("large")}
TENANTS = {
    "open": Tenant(),
    "narrow": Tenant(models=("large",), concurrency=3, requests_per_minute=7, key_concurrency=2),
}
HOUSE = House(TENANTS)


def principal(tenant: str = "open", models: frozenset[str] | None = None, **limits: int) -> Principal:
    """A key of a tenant."""
    return Principal("key_1", tenant, "alice", models=models, limits=Limits(**limits))


def test_a_grant_says_who_what_and_by_which_rule() -> None:
    """The grant holds the model, the bounds of both holders, and the rule for the record."""
    grant = authorize(principal(), head(), call(), MODELS, HOUSE)
    assert grant.model is MODELS["small"]
    assert grant.rule == "tenant-model"
    assert grant.tenant_limits == Limits(64, 6000)
    assert grant.principal.limits == Limits(32, 3000)
    assert (
        authorize(principal(models=frozenset({"small"})), head(), call(), MODELS, HOUSE).rule == "tenant-and-key-model"
    )


@pytest.mark.parametrize(
    ("who", "model"),
    [
        (principal(), "none-such"),
        (principal("narrow"), "small"),
        (principal(models=frozenset({"large"})), "small"),
        (principal("narrow", frozenset({"small"})), "small"),
        (principal("narrow", frozenset({"small"})), "large"),
    ],
)
def test_a_model_that_is_not_theirs_does_not_exist_for_them(who: Principal, model: str) -> None:
    """Not served, not the tenant's, not the key's: the refusal is the same, byte for byte."""
    with pytest.raises(ModelNotFound) as refused:
        authorize(who, head(), call(model=model), MODELS, HOUSE)
    assert refused.value.body() == ModelNotFound(param="model").body()


def test_more_tokens_than_the_context_are_refused_here() -> None:
    """A completion that the context cannot hold is refused before it is queued; one that just fits is not."""
    authorize(principal(), head(), call(completion_tokens=2048), MODELS, HOUSE)
    with pytest.raises(ContextLengthExceeded, match="2048") as refused:
        authorize(principal(), head(), call(completion_tokens=2049), MODELS, HOUSE)
    assert refused.value.param == "max_tokens"
    with pytest.raises(ContextLengthExceeded) as refused:
        authorize(principal(), head(), call(completion_tokens=2049, asked_in="max_completion_tokens"), MODELS, HOUSE)
    assert refused.value.param == "max_completion_tokens"


def test_token_ids_beyond_the_vocabulary_are_refused_here() -> None:
    """The greatest token id that the client named is below the vocabulary's size."""
    authorize(principal(), head(), call(highest_token=49151), MODELS, HOUSE)
    with pytest.raises(InvalidRequest, match="vocabulary"):
        authorize(principal(), head(), call(highest_token=49152), MODELS, HOUSE)


def test_tenant_and_key_must_both_allow_a_model() -> None:
    """Neither can give what the other does not."""
    assert may_use(principal(), HOUSE, "small")
    assert may_use(principal("narrow"), HOUSE, "large")
    assert not may_use(principal("narrow"), HOUSE, "small")
    assert not may_use(principal(models=frozenset({"large"})), HOUSE, "small")


def test_a_keys_own_bounds_come_before_its_tenants() -> None:
    """What a key has no bound for, its tenant bounds; a key with both is taken as it is."""
    own = principal("narrow", concurrency=9, requests_per_minute=8)
    assert bounded(own, HOUSE) is own
    assert bounded(principal("narrow", concurrency=9), HOUSE).limits == Limits(9, 3000)
    assert bounded(principal("narrow", requests_per_minute=8), HOUSE).limits == Limits(2, 8)
    assert bounded(principal("narrow"), HOUSE).subject == "alice"
    assert limits_of(TENANTS["narrow"]) == Limits(3, 7)
