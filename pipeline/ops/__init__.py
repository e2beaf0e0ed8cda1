"""Tasks of an operator: provision, check, submit jobs, redrive dead letters, start sweeps."""
