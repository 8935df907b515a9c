"""The settings in docs/policy.md are settings, and do what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from vestry.house import House
from vestry.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs/policy.md").read_text(encoding="utf-8")


def test_the_example_is_valid() -> None:
    """As it stands on the page, with the tenants that it names."""
    [example] = re.findall(r"```yaml\n(policy:.*?)```", PAGE, re.DOTALL)
    tree = yaml.safe_load(example) | {"tenants": {"research": {}, "cardiology": {}}}
    house = House.of(Settings.model_validate(tree))
    assert [rule.name for rule in house.rulings["research"].rules] == [
        "night-batch",
        "report-writer-by-day",
        "research-has-no-tools",
        "everybody-else",
    ]
    assert not house.rulings["research"].default
