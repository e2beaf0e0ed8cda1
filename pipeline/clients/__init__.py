"""Shared clients, each created when it is first used."""
