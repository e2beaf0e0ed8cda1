"""Details of a source for results: its facts, mean colour, placeholder and warnings."""
