"""The demo: runs sample covers through the whole pipeline on this machine, and checks every outcome."""
