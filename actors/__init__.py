"""The actors of the four stages, one file each, and those of the sweeps."""
