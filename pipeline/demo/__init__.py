"""The demo: sample covers through the whole pipeline on this machine, and every outcome checked."""

from pipeline.demo.run import run

__all__ = ["run"]
