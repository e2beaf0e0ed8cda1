"""Walks a sweep page by page in a test, and ends its jobs."""

from __future__ import annotations

from pipeline.job import Job
from pipeline.sweeps import run_state, sweep
from pipeline.sweeps.documents import WriteBack

INFO = {"50x50": {"url": "https://s3/x_50x50.png", "bucket_path": "images-resized/A/"}}


class Walker:
    """Takes the pages of a run and keeps the jobs that were handed over."""

    def __init__(self, swept, run="run", limit=None):
        self.swept, self.run = swept, run
        self.jobs: list[Job] = []
        run_state.begin(swept, run, limit=limit)

    def take(self, page, by=None, hand_over=None):
        return sweep.take_page(
            self.swept, self.run, page, by=by or f"message {page}", hand_over=hand_over or self.accept
        )

    def accept(self, jobs):
        self.jobs.extend(jobs)
        return [None] * len(jobs)

    def go(self):
        """Take all pages. Whenever the run has to wait for its jobs, end them."""
        page: int | None = 0
        done = 0
        while page is not None:
            next_page = self.take(page)
            if next_page and next_page.wait:
                for job in self.jobs[done:]:
                    end(job)
                done = len(self.jobs)
            page = next_page.page if next_page else None
        return self

    @property
    def record(self):
        return run_state.load(self.run)


def end(job: Job, *, good=True):
    fields = [name for source in job.sources for name in source.fields]
    error = {"field": fields[0], "stage": "fetch", "code": "http_404", "message": "gone"}
    how: WriteBack = {
        "stored": dict.fromkeys(fields, INFO) if good else {},
        "errors": {} if good else dict.fromkeys(fields, error),
        "given_up": False,
    }
    sweep.write_back(job.sweep, how)


def episodes(database, number, covers=None, channel=1):
    database.episodes.insert_many(
        [{"_id": n, "itunes_image": f"http://h/{n % (covers or number)}", "channel_id": channel} for n in range(number)]
    )
