"""The command line, `image-pipeline`: one file per command."""
