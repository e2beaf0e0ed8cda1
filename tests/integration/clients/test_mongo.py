"""Operations on MongoDB: what they cost, and when they fail."""

from __future__ import annotations

import pytest
from pymongo.errors import AutoReconnect, ExecutionTimeout, OperationFailure, PyMongoError, ServerSelectionTimeoutError

from pipeline.clients import lazy, mongo
from pipeline.errors import RetryableError
from tests.support.mongo_commands import recorded

LONG = 60.0


def test_only_the_first_of_many_long_operations_asks_whether_the_database_is_there(database, monkeypatch):
    commands = recorded(monkeypatch)
    for _ in range(3):
        with mongo.mongo_errors("read", timeout=LONG):
            mongo.database()["things"].find_one({})
    pings = commands.names.count("ping")
    assert pings <= 1  # none if pymongo has found the server by itself
    assert commands.names[pings:] == ["find", "find", "find"]


def test_a_long_operation_does_not_search_long_for_a_database_that_is_away(database, monkeypatch):
    # given a database that cannot be reached
    monkeypatch.setenv("MONGO_URL", "mongodb://127.0.0.1:1/none")
    monkeypatch.setattr(mongo, "SHORT_TIMEOUT", 0.2)
    lazy.forget()
    # when a long operation begins, then it ends before it was sent; otherwise this test takes a minute
    for _ in range(2):
        with pytest.raises(RetryableError, match="MongoDB does not answer"), mongo.mongo_errors("read", timeout=LONG):
            pytest.fail("It was begun.")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ServerSelectionTimeoutError("secret"), mongo.NO_ANSWER),
        (AutoReconnect("secret"), mongo.NO_ANSWER),
        (ExecutionTimeout("secret", 50), mongo.NO_ANSWER),
        (OperationFailure("secret", 14031), "Could not read it: the disk of MongoDB is full."),
        (OperationFailure("secret: No space left on device", 8), "Could not read it: the disk of MongoDB is full."),
        (OperationFailure("secret", 1), "Could not read it: MongoDB has an internal error. Its disk may be full: "),
        (OperationFailure("secret", 13), "Could not read it: MongoDB raised OperationFailure 13."),
    ],
)
def test_an_error_is_a_sentence_without_its_text(error: PyMongoError, sentence: str) -> None:
    found = mongo.trouble(error, "read it")
    assert found.startswith(sentence)
    assert "secret" not in found
