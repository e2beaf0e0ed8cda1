"""The invariants of the service, as functions over events.

A simulated history, a chaos run and a long run note events: the simulator as they happen, the others from the job log,
the queues and the receivers of results. Each function below yields the problems that it finds in them.

At-least-once delivery permits repetitions, and each needs a *cause*: a crash, a lost answer, a lease that ran out, and
so on. A run that cannot see all causes has `counts_causes=False`: then any number of equal repetitions is permitted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

#: The code of a job that was given up because it seems to kill its workers.
GIVEN_UP = "worker_crashed"

#: Trials of a message in quarantine that have to fail before it is given up.
TRIALS = 2

#: Causes that count as failed trials. A stop, the kill at its end, and a copy that it leaves do not.
TRIED = ("crash", "lost", "repeat", "expired", "interrupt", "kept", "hung")

#: Causes that repeat no work: a process that stops released the message before it began.
HARMLESS = ("stop",)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job.

    Attributes:
        kind: `sent`, `ran`, `result`, `letter`, or `cause`.
        job: The job.
        what: The body of a result, the code of a dead letter, the stage that ran, or the cause.
        where: The queue of a dead letter or of a message that was sent.
        message: The message that a cause is about, if that is known.
    """

    kind: str
    job: str
    what: str = ""
    where: str = ""
    message: str = ""


@dataclass(frozen=True)
class Expected:
    """The outcome that a job must have.

    Attributes:
        results: How many results: 0 or 1.
        letters: The queues and codes of its dead letters.
    """

    results: int = 1
    letters: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Problem:
    """A broken invariant. `is_loss` is whether something is missing, and not wrong or too much."""

    job: str
    about: str
    is_loss: bool = False


@dataclass(slots=True)
class Story:
    """Everything that the events say about one job."""

    sends: int = 0
    runs: Counter[str] = field(default_factory=Counter)  #: by stage
    results: list[str] = field(default_factory=list)  #: their bodies
    letters: Counter[tuple[str, str]] = field(default_factory=Counter)  #: by queue and code
    causes: Counter[str] = field(default_factory=Counter)
    trials: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))  #: failed ones in quarantine

    def add(self, event: Event) -> None:
        """Continue the story."""
        if event.kind == "sent":
            self.sends += 1
        elif event.kind == "ran":
            self.runs[event.what] += 1
        elif event.kind == "result":
            self.results.append(event.what)
        elif event.kind == "letter":
            self.letters[event.where, event.what] += 1
        else:
            self.causes[event.what] += 1
            if event.where.endswith("_quarantine"):
                self.trials[event.message] += event.what in TRIED

    @property
    def most(self) -> int:
        """How often the job may do anything that it has to do once."""
        return 1 + self.causes.total() - sum(self.causes[cause] for cause in HARMLESS)

    @property
    def is_given_up(self) -> bool:
        return any(code == GIVEN_UP for _, code in self.letters)


def stories(events: Iterable[Event]) -> dict[str, Story]:
    """Return the story of each job."""
    told: dict[str, Story] = defaultdict(Story)
    for event in events:
        told[event.job].add(event)
    return told


def results(
    told: Mapping[str, Story], expected: Mapping[str, Expected], *, counts_causes: bool = True
) -> Iterator[Problem]:
    """Each job has its result, repetitions have causes and the same body, and no other job has one."""
    for job, wanted in expected.items():
        story = told.get(job, Story())
        # A job that is given up in the stage that delivers results has none.
        is_excused = any(code == GIVEN_UP for queue, code in story.letters if "notify" in queue)
        if len(story.results) < wanted.results and not is_excused:
            yield Problem(job, "no result", is_loss=True)
        if counts_causes and len(story.results) > wanted.results * story.most:
            yield Problem(job, f"{len(story.results)} results; causes: {dict(story.causes)}")
        if len(set(story.results)) > 1:
            yield Problem(job, f"results with different bodies: {story.results}")
    for job in told.keys() - expected.keys():
        if told[job].results:
            yield Problem(job, "a result that no one expects")


def dead_letters(
    told: Mapping[str, Story], expected: Mapping[str, Expected], *, counts_causes: bool = True
) -> Iterator[Problem]:
    """Each job has its dead letters, repetitions have causes, and there are no others.

    Where causes count, a job may also be given up: `given_up` judges that.
    """
    for job in {**expected, **told}:
        story, wanted = told.get(job, Story()), expected.get(job, Expected(0)).letters
        for queue, code in sorted(wanted - story.letters.keys()):
            if not (counts_causes and story.is_given_up):
                yield Problem(job, f"no dead letter {code} in {queue}", is_loss=True)
        for (queue, code), count in sorted(story.letters.items()):
            if (queue, code) not in wanted and not (counts_causes and code == GIVEN_UP):
                yield Problem(job, f"an unexpected dead letter {code} in {queue}")
            elif counts_causes and count > story.most:
                yield Problem(job, f"{count} dead letters {code} in {queue}; causes: {dict(story.causes)}")


def given_up(told: Mapping[str, Story]) -> Iterator[Problem]:
    """No job is given up as a killer of workers before enough trials in quarantine have failed."""
    for job, story in told.items():
        if story.is_given_up and max(story.trials.values(), default=0) < TRIALS:
            yield Problem(job, f"given up after {dict(story.trials)} failed trials")


def nothing_left(left: Mapping[str, object]) -> Iterator[Problem]:
    """No queue has messages, except those for dead letters. `left` has the rest of each queue, by name."""
    for queue, messages in left.items():
        if messages and not queue.endswith(("_dlq", "_dlq.fifo")):
            yield Problem("", f"the queue {queue} is not empty: {messages}", is_loss=True)


def probes(answers: Iterable[tuple[str, str]], hanging: Iterable[str] = ()) -> Iterator[Problem]:
    """Each process is live, unless it hangs. `answers` has the process and the trouble of each probe; empty: none."""
    hanging = set(hanging)
    for process, trouble in answers:
        if trouble and process not in hanging:
            yield Problem("", f"{process} is not live: {trouble}")
