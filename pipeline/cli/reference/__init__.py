"""Commands that print reference material. They read no settings and send nothing."""
