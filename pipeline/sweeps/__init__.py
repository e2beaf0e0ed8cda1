"""Sweeps of MongoDB: the documents, the state of a run, and the sweep itself."""
