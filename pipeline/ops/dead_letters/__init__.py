"""Dead letters: read, redrive and purge them."""
