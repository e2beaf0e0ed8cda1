"""Sweeps of MongoDB: the documents, the state of runs, and the sweep itself."""
