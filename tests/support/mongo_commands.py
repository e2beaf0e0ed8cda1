"""Records the commands that this process sends to MongoDB."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import bson
import pytest
from pymongo import MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from pipeline.clients import lazy, mongo


@dataclass
class Commands(CommandListener):
    """The commands, and the documents that came back.

    Attributes:
        sent: the commands in the order they were sent.
        received: number of documents in the replies of queries.
        received_bytes: size of all replies.
    """

    sent: list[Mapping[str, Any]] = field(default_factory=list)
    received: int = 0
    received_bytes: int = 0

    @property
    def names(self) -> list[str]:
        """The names of the commands."""
        return [next(iter(command)) for command in self.sent]

    def clear(self) -> None:
        self.sent, self.received, self.received_bytes = [], 0, 0

    def started(self, event: CommandStartedEvent) -> None:
        self.sent.append(event.command)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        cursor = event.reply.get("cursor", {})
        self.received += len(cursor.get("firstBatch", ())) + len(cursor.get("nextBatch", ()))
        self.received_bytes += len(bson.encode(event.reply))

    def failed(self, event: CommandFailedEvent) -> None: ...


def recorded(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Record the commands of the clients that are made from now on in this test."""
    commands = Commands()
    monkeypatch.setattr(mongo, "MongoClient", partial(MongoClient, event_listeners=[commands]))
    lazy.forget()
    return commands
