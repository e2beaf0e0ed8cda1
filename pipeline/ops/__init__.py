"""What an operator does: provision, check, submit jobs, redrive dead letters, start sweeps."""
