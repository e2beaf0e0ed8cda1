"""Schedules of sweeps and re-checks that are not due while a test runs, at whatever time of day."""

from __future__ import annotations

from datetime import datetime

VARIABLES = ("SWEEP_CHANNELS_CRON", "SWEEP_EPISODES_CRON", "RECHECK_CRON")


def far_schedules() -> dict[str, str]:
    """Return the variables of all schedules, each about twelve hours from now in the host's time zone."""
    hour = (datetime.now().astimezone().hour + 12) % 24
    return dict.fromkeys(VARIABLES, f"30 {hour} * * *")
