"""Images: bytes in, renditions out. No network, no settings, no queues."""
