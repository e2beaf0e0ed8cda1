"""The stages, one actor a file: each reads its message, does one thing, hands the job on. And the sweeps."""
