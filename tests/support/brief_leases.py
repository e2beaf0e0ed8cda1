"""Loaded by a worker together with the actors: messages that it held when it stopped are soon visible again."""

from __future__ import annotations

from pipeline.actors import broker

broker.visibility = 2
