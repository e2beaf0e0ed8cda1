"""The demo: sample covers through the whole pipeline on this machine, and every outcome checked."""
