"""The checks of `image-pipeline check`, one file per service."""
