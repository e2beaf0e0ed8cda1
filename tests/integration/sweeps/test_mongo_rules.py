"""Each rule of MongoDB that the sweeps rely on, on two independent servers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from pymongo import MongoClient

from pipeline.local.embedded import EmbeddedStack
from tests.support.mongo_contract import MANUAL, RULES, Rule
from tests.support.second_mongo import UNLIKE_MONGODB, second_mongo

FIRST, SECOND = "SecantusDB", "nx-27017"


@pytest.fixture(scope="module")
def second_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with second_mongo(tmp_path_factory.mktemp("mongo")) as url:
        yield url


@pytest.mark.parametrize("server", [FIRST, SECOND])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.uses[0]}: {rule.on}")
def test_a_rule_of_mongodb_holds(request: pytest.FixtureRequest, stack: EmbeddedStack, server: str, rule: Rule) -> None:
    # Given the documents of the rule
    url = stack.environ["MONGO_URL"] if server == FIRST else request.getfixturevalue("second_url")
    with MongoClient(url, tz_aware=True) as client:
        collection = client[f"rule_{secrets.token_hex(4)}"]["of"]
        if rule.given:
            collection.insert_many(rule.given)
        # When it is tried, then the result is MongoDB's, unless the exception is listed.
        reason = UNLIKE_MONGODB.get(f"{rule.uses[0]}: {rule.on}") if server == SECOND else None
        if reason is None:
            assert rule.act(collection) == rule.result
        else:
            with pytest.raises(Exception):  # noqa: B017, PT011 - whichever way it differs; once it does not, this fails
                assert rule.act(collection) == rule.result


def test_each_rule_links_the_manual_and_each_exception_names_a_rule() -> None:
    assert all(rule.page.startswith("reference/") or rule.page.startswith("core/") for rule in RULES), MANUAL
    assert UNLIKE_MONGODB.keys() <= {f"{rule.uses[0]}: {rule.on}" for rule in RULES}
