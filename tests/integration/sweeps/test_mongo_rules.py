"""Each rule of MongoDB that the sweeps rely on, on the embedded server."""

from __future__ import annotations

import secrets

import pytest
from pymongo import MongoClient

from pipeline.local.embedded import EmbeddedStack
from tests.support.mongo_contract import MANUAL, RULES, Rule


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.uses[0]}: {rule.on}")
def test_a_rule_of_mongodb_holds(stack: EmbeddedStack, rule: Rule) -> None:
    with MongoClient(stack.environ["MONGO_URL"], tz_aware=True) as client:
        collection = client[f"rule_{secrets.token_hex(4)}"]["of"]
        if rule.given:
            collection.insert_many(rule.given)
        assert rule.act(collection) == rule.result


def test_each_rule_links_the_manual() -> None:
    assert all(rule.page.startswith(("reference/", "core/")) for rule in RULES), MANUAL
