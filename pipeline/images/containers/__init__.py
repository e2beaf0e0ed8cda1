"""Readers of the eight formats: the size, and the first frame without anything that a decoder does not need."""
