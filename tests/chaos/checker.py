"""Checks the contract's guarantees (section 7) for a run, by comparing its orders with their outcomes."""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from PIL import Image

from pipeline.clients import aws
from pipeline.settings import get_settings
from pipeline.stages import FETCH
from tests.chaos.orders import RENDITIONS, SECRET, SECRET_FORMS, Failed, Order
from tests.chaos.service import Line, Service
from tests.chaos.staging_log import StagingLog
from tests.chaos.world import World
from tests.support.invariants import Event, Expected, Problem, dead_letters, results, stories

#: Seconds within which a dead worker's messages must be processed by another (contract).
TAKE_OVER = 60

#: Times are compared in fractions of a second, this many per second.
TICKS = 10

#: Threads of a process of resize, in the Procfile: the jobs that one end of a process cuts off.
RESIZE_THREADS = 6


@dataclass
class Outcome:
    """The problems and numbers of a run."""

    lost: set[int] = field(default_factory=set)
    corrupt: set[int] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    numbers: Counter[str] = field(default_factory=Counter)
    longest_take_over: float = 0.0


class Checker:
    """Compares orders with their outcomes."""

    def __init__(
        self, orders: list[Order], service: Service, world: World, *, swept_letters: int, visibility: float
    ) -> None:
        self.orders = orders
        self.outcome = Outcome()
        self._service, self._visibility = service, visibility
        self._world = world
        self._objects: dict[str, str] = {}  # what each key contains, read once
        self._redirected = {name: service.take_all(self._url(name)) for name in service.queues.values()}
        letters = service.dead_letters()
        self._letters = [letter for letter in letters if not _is_swept(letter)]
        swept = {(each["error_code"], _job_of(each)) for each in letters if _is_swept(each)}
        if swept_letters != len(swept) or {code for code, _ in swept} - {"http_404"}:
            self.outcome.problems.append(
                f"{swept_letters} covers of documents are missing, but the number of dead letters is {swept}"
            )

    def check(self) -> Outcome:
        """Run all checks."""
        self._check_posts()
        self._check_redirected()
        self._check_letters()
        self._check_staging()
        self._check_logs(self._service.lines)
        self.outcome.longest_take_over = self._longest_take_over()
        if self.outcome.longest_take_over > TAKE_OVER:
            self.outcome.problems.append(f"a take-over took {self.outcome.longest_take_over:.0f} s")
        return self.outcome

    @staticmethod
    def _url(name: str) -> str:
        return aws.sqs().get_queue_url(QueueName=name)["QueueUrl"]

    def _check_posts(self) -> None:
        posts: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for post in self._world.posts:
            posts[post.webhook_id].append(post.body)
        self._check_results("postback", posts, {order.id: order for order in self.orders if order.posted})

    def _check_redirected(self) -> None:
        for name, messages in self._redirected.items():
            results: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for message in messages:
                results[message.get("job_id", "")].append(json.loads(message["body"]))
            wanted = {order.id: order for order in self.orders if order.redirected == name}
            self._check_results("redirected result", results, wanted)

    def _check_results(self, what: str, found: dict[str, list[dict[str, Any]]], wanted: dict[str, Order]) -> None:
        """Check that each order has its expected result, and that repeats are identical."""
        told = stories(
            Event("result", job, json.dumps(body, sort_keys=True)) for job, bodies in found.items() for body in bodies
        )
        for problem in results(told, dict.fromkeys(wanted, Expected()), counts_causes=False):
            self._report(problem, what, wanted.get(problem.job))
        for job, order in wanted.items():
            if bodies := found.get(job):
                self.outcome.numbers[f"{what}s repeated"] += len(bodies) - 1
                self._check_result(order, bodies[0], what)

    def _report(self, problem: Problem, what: str, order: Order | None) -> None:
        about = f"{what}: {problem.about[:900]}"
        if order is None:
            self.outcome.problems.append(f"{about}: job {problem.job}")
        elif problem.is_loss:
            self._lost(order, about)
        else:
            self._corrupt(order, about)

    def _check_result(self, order: Order, result: dict[str, Any], what: str) -> None:
        secret = {"postback_secret_key": f"{SECRET}-key"} if what == "postback" else {}
        ours = {f"{name}_{kind}" for name in order.images for kind in ("info", "error")}
        if {name: value for name, value in result.items() if name not in ours} != order.body | secret:
            self._corrupt(order, f"{what} whose fields differ from the order")
        for name, image in order.images.items():
            info, error = result.get(f"{name}_info"), result.get(f"{name}_error")
            if isinstance(image, Failed):
                if info is not None or not error or (error["stage"], error["code"]) != (image.stage, image.code):
                    self._corrupt(order, f"{name}: {error} instead of {image}")
            elif error or not info or set(info) != set(RENDITIONS):
                self._corrupt(order, f"{name}: {error} instead of images")
            else:
                for rendition, where in info.items():
                    if problem := self._problem_of(where["url"], image, RENDITIONS[rendition]):
                        self._corrupt(order, f"{name}: {rendition} {problem}")

    def _problem_of(self, url: str, image_format: str, size: tuple[int, int]) -> str:
        """Describe the problem of a published object; empty if it is correct."""
        settings = get_settings()
        key = url.removeprefix(f"{settings.public_url_base}/")
        if key not in self._objects:
            try:
                data = aws.s3().get_object(Bucket=settings.s3_bucket, Key=key)["Body"].read()
                image = Image.open(io.BytesIO(data))
                image.load()
                self._objects[key] = f"{image.format} {image.size}"
            except Exception as error:
                self._objects[key] = f"is missing or not an image ({type(error).__name__})"
        found = self._objects[key]
        return "" if found == f"{image_format} {size}" else f"at {key}: {found}"

    def _check_letters(self) -> None:
        told = stories(
            Event("letter", str(self._owner(letter)), letter.get("error_code") or "", letter["queue"])
            for letter in self._letters
        )
        wanted = {str(order.n): Expected(0, frozenset(order.letters)) for order in self.orders}
        for problem in dead_letters(told, wanted, counts_causes=False):
            owner = self.orders[int(problem.job)] if problem.job in wanted else None
            self._report(problem, "dead letters", owner)
        kinds = sum(len(expected.letters) for expected in wanted.values())
        self.outcome.numbers["dead letters"] = kinds
        self.outcome.numbers["dead letters repeated"] = len(self._letters) - sum(len(s.letters) for s in told.values())
        for letter in self._letters:
            if not letter.get("error_code") or not letter.get("error_message"):
                self.outcome.problems.append(f"a dead letter in {letter['queue']} without a reason")

    def _owner(self, letter: dict[str, Any]) -> int | None:
        body = letter["body"]
        return next((o.n for o in self.orders if o.marker in body or (o.id and f'"{o.id}"' in body)), None)

    def _check_staging(self) -> None:
        """Check that staging contains only objects that dead letters need, and long payloads, which expire.

        Objects of a worker that died or lost its lease before its hand-over are excused if another delivery completed
        the job, because no message has their keys. No more jobs may have any than one process works on at a time.
        """
        needed = {key for letter in self._letters for key in _keys_needed(letter)}
        long = [order.marker.encode() for order in self.orders if order.kind == "long payload"]
        left = {
            key: data
            for path, data in self._service.staged().items()
            if (key := path.rpartition("/")[2]) not in needed
            and not (data.startswith(b"{") and any(marker in data for marker in long))
        }
        log = StagingLog(self._service.lines, self._service.proxy.delivered, self._visibility)
        excused = [key for key in left if log.was_cut_off(key)]
        self.outcome.numbers["staged objects that expire"] = len(excused)
        for key in left.keys() - excused:
            about = f"{key} is left in staging: {len(left[key])} bytes"
            self.outcome.problems.append(f"{about}{_shown(log.history(key))}")
        jobs = {job for key in excused for job in log.jobs(key)}
        if len(jobs) > max(RESIZE_THREADS, len(self.orders) // 200):
            self.outcome.problems.append(f"{len(excused)} objects of {len(jobs)} jobs are left in staging")

    def _check_logs(self, lines: Iterable[Line]) -> None:
        for line in lines:
            if any(form in line.text for form in SECRET_FORMS):
                self.outcome.problems.append(f"a secret in the log of {line.process}: {line.text[:300]}")

    def _longest_take_over(self) -> float:
        """Return the longest time from a kill to the job's next log line in that stage, in seconds.

        Times without a running worker, SQS or S3 do not count. The result is an upper bound, because the job may only
        have waited in the queue. If several workers of the stage died, the longest time between two deaths counts.
        """
        history: dict[str, list[tuple[float, str, str]]] = defaultdict(list)
        plain = {order.id for order in self.orders if order.kind in {"plain", "two images", "shared cover"}}
        for line in self._service.lines:
            if "stage=" in line.text and " job=" in line.text:
                fields = dict(word.split("=", 1) for word in line.text.split() if "=" in word)
                if fields.get("job") in plain:
                    history[fields["job"]].append((line.at, fields["stage"], fields["outcome"]))
        idle = {kind: self._idle_ticks(kind) for _, kind in self._service.kills}
        deaths = {kind: self._deaths(kind) for kind in idle}
        gaps = [0.0]
        for events in history.values():
            for (before, _, _), (after, stage, outcome) in pairwise(events):
                kills = [at for at, kind in self._service.kills if kind == stage and before < at < after]
                if kills and outcome == "done":
                    times = [kills[0], *(at for at in deaths[stage] if kills[0] < at < after), after]
                    gaps += [len(_ticks(*pair) - idle[stage]) / TICKS for pair in pairwise(times)]
        return max(gaps)

    def _deaths(self, kind: str) -> list[float]:
        """List the times at which processes of a kind ended."""
        return [line.at for line in self._service.lines if line.kind == kind and line.is_end]

    def _idle_ticks(self, kind: str) -> set[int]:
        """Return the ticks in which no process of a kind ran, or SQS and S3 had faults."""
        end = self._service.lines[-1].at
        down: dict[str, set[int]] = defaultdict(set)
        for name in (name for name in self._service.supervisor.names if name.startswith(f"{kind}.")):
            ended: float | None = None
            for line in (line for line in self._service.lines if line.process == name):
                if line.is_end:
                    ended = line.at
                elif ended is not None and "process is ready" in line.text:
                    down[name] |= _ticks(ended, line.at)
                    ended = None
            down[name] |= _ticks(ended, end) if ended is not None else set()
        in_trouble = [_ticks(since, until) for since, until in self._service.proxy.troubled]
        return set.intersection(*down.values()) | set().union(*in_trouble)

    def _lost(self, order: Order, about: str) -> None:
        self.outcome.lost.add(order.n)
        self.outcome.problems.append(f"order {order.n} ({order.kind}, job {order.id}): {about}{self._history(order)}")

    def _corrupt(self, order: Order, about: str) -> None:
        self.outcome.corrupt.add(order.n)
        self.outcome.problems.append(f"order {order.n} ({order.kind}, job {order.id}): {about}{self._history(order)}")

    def _history(self, order: Order) -> str:
        """Return the log lines of an order."""
        lines = [line for line in self._service.lines if order.id and order.id in line.text]
        return _shown(lines)


def _is_swept(letter: dict[str, Any]) -> bool:
    return '"sweep":{' in letter["body"]


def _keys_needed(letter: dict[str, Any]) -> Iterator[str]:
    """List the staging keys that a redrive of the dead letter needs."""
    yield letter.get("staging_key", "")
    try:
        sources = json.loads(letter["body"])["kwargs"]["job"]["sources"]
    except (ValueError, KeyError, TypeError):  # it contains no job
        return
    for source in sources:
        if source.get("due", FETCH.name) == letter.get("stage"):
            yield source.get("original", "")
            yield source.get("rendered", {}).get("key", "")


def _job_of(letter: dict[str, Any]) -> str:
    """Return the id of the job in a dead letter."""
    return str(json.loads(letter["body"])["kwargs"]["job"]["id"])


def _shown(lines: list[Line]) -> str:
    return "".join(f"\n    {line.at:.1f} {line.process}: {line.text[:240]}" for line in lines[-40:])


def _ticks(since: float, until: float) -> set[int]:
    return set(range(int(since * TICKS), int(until * TICKS)))
