"""The log: levels, the one line that every stage writes for every job, and its two forms, text and JSON."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.events import Event

TEXT_FORMAT = "[%(asctime)s] [%(process)d] [%(name)s] [%(levelname)s] %(message)s"

_stages = logging.getLogger("pipeline.stage")


class JsonFormatter(logging.Formatter):
    """A line as a JSON object: `time`, `level`, `logger`, `process`, `message`, what an event tells, a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        line |= getattr(record, "event", {})
        if record.exc_info and record.exc_info[0]:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return json.dumps(line, ensure_ascii=True, default=str)


def set_up(settings: Settings) -> None:
    """The levels, and the form of LOG_FORMAT for what the process has for handlers: dramatiq's and periodiq's too.

    The project's own loggers are at LEVEL; libraries stay at INFO: their debug lines hold bodies and secrets.
    """
    for name in ("boto3", "botocore", "dramatiq", "periodiq", "pymongo", "requests", "s3transfer", "urllib3"):
        logging.getLogger(name).setLevel(logging.INFO)
    for name in ("pipeline", "actors"):
        logging.getLogger(name).setLevel(settings.level)
    if settings.log_format == "json":
        use_json()


def use_json() -> None:
    """Have what handles all loggers of this process write JSON."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonFormatter())


def log_event(event: Event) -> None:
    """`stage=fetch job=… outcome=done seconds=0.123`; where it did not go well, with the reason for people.

    In JSON also as `job`, `stage`, `outcome`, `seconds` and `attempt`, and then `code` and `wait`.
    """
    wait = f" in {event.wait:.1f} s" if event.wait else ""
    reason = f" {event.code}: {event.message[:300]}" if event.code else ""
    _stages.info(
        "stage=%s job=%s outcome=%s seconds=%.3f%s%s",
        event.stage,
        event.job_id,
        event.verdict,
        event.seconds,
        wait,
        reason,
        extra={"event": _facts(event)},
    )


def _facts(event: Event) -> dict[str, Any]:
    facts = {
        "stage": event.stage,
        "job": event.job_id,
        "outcome": event.verdict.value,
        "seconds": round(event.seconds, 3),
        "attempt": event.attempt,
        "code": event.code,
        "wait": round(event.wait, 1),
    }
    return {name: value for name, value in facts.items() if value != "" and not (name == "wait" and not value)}
