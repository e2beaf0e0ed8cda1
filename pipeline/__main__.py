"""`python -m pipeline` is `image-pipeline`."""

from pipeline.cli.app import main

main()
