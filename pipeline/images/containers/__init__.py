"""Readers of the eight formats: the size, and the first picture without anything that a decoder does not need."""
