"""`python -m pipeline` is `image-pipeline`."""

from pipeline.cli import main

main()
