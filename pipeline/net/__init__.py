"""Requests to servers that we do not run: the address guard, downloads, the host limiter and notifications."""
