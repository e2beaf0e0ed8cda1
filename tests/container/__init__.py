"""Builds the image without a container daemon, and proves that every process works in it: `make image`.

It needs root, and podman, runc and mmdebstrap of Debian. The base is made of Debian's packages, under the name that the
Dockerfile gives it. Images and containers are in .data/containers, apart from those of the system.
"""
