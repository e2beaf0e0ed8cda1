"""Other people's servers: the address guard, downloads, the host limiter and notifications."""
