"""Dead letters: read them, send them through again, purge them."""
