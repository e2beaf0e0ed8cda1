"""Logging: levels, formats (text or JSON), and the line for each attempt of a stage."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline.settings import Settings
from pipeline.text import shorten

if TYPE_CHECKING:
    from pipeline.events import Event

TEXT_FORMAT = "[%(asctime)s] [%(process)d] [%(name)s] [%(levelname)s] %(message)s"

_stages = logging.getLogger("pipeline.stage")


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object.

    Its keys are `time`, `level`, `logger`, `process`, `message`, the fields of an event, and `exception` (a traceback).
    """

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
    """Set levels, and apply LOG_FORMAT to the existing handlers, including those of dramatiq and periodiq.

    The project's loggers use LEVEL. Libraries stay at INFO because their debug lines contain bodies and secrets.
    """
    for name in ("boto3", "botocore", "dramatiq", "periodiq", "pymongo", "requests", "s3transfer", "urllib3"):
        logging.getLogger(name).setLevel(logging.INFO)
    for name in ("pipeline", "actors"):
        logging.getLogger(name).setLevel(settings.level)
    if settings.log_format == "json":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())


def log_event(event: Event) -> None:
    """Log an attempt as `stage=fetch job=… outcome=done seconds=0.123`, followed by the error, if any.

    JSON lines also have the keys `job`, `stage`, `outcome`, `seconds` and `attempt`, and for errors `code` and `wait`.
    """
    wait = f" in {event.wait:.1f} s" if event.wait else ""
    reason = f" {event.code}: {shorten(event.message, 300)}" if event.code else ""
    _stages.info(
        "stage=%s job=%s outcome=%s seconds=%.3f%s%s",
        event.stage,
        event.job_id,
        event.outcome,
        event.seconds,
        wait,
        reason,
        extra={"event": _facts(event)},
    )


def _facts(event: Event) -> dict[str, Any]:
    facts = {
        "stage": event.stage,
        "job": event.job_id,
        "outcome": event.outcome.value,
        "seconds": round(event.seconds, 3),
        "attempt": event.attempt,
        "code": event.code,
        "wait": round(event.wait, 1),
    }
    return {name: value for name, value in facts.items() if value != "" and not (name == "wait" and not value)}
