"""The checks that `image-pipeline check` runs, one file per service they ask."""
