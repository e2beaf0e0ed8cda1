"""Rendering: the bytes of an image in, its renditions out. No network, no settings, no queues."""
