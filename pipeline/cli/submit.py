"""The command `image-pipeline submit`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer

from pipeline.cli.output.submit_report import Report
from pipeline.cli.output.terminal import console, fail, interruptible, new_app
from pipeline.ops.submit import (
    SubmitError,
    numbered_lines,
    queue_name,
    read_submissions,
    result_queue,
    send,
    validate,
    wait_for_results,
)

app = new_app()


@app.command()
def submit(
    urls: Annotated[list[str] | None, typer.Argument(metavar="URL", help="Images; each becomes one job.")] = None,
    *,
    folder: Annotated[str | None, typer.Option(help="The folder in S3 (bucket_name).", metavar="NAME")] = None,
    postback_url: Annotated[str | None, typer.Option(help="The URL that receives the results.", metavar="URL")] = None,
    redirect_queue: Annotated[
        str | None, typer.Option(help="The SQS queue that receives the results.", metavar="NAME")
    ] = None,
    file: Annotated[
        typer.FileText | None,
        typer.Option(
            help="Full payloads, one JSON object per line; - for standard input.", metavar="FILE", encoding="utf-8"
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the results on a temporary queue, and show them.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Maximum time to wait.", metavar="SECONDS", min=1, max=43200)] = 120,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines: each job when it is sent, and again when it ends.")
    ] = False,
) -> None:
    """Send images through the pipeline: to QUEUE_URL if it is set, otherwise directly to the fetch stage.

    All jobs are validated before the first is sent. The options for folder, postback and redirect apply to each line
    of a file unless the line sets its own.

    With --wait, the exit status is 1 if an image failed or has no result in time. The workers then need permission to
    send to the queue `<QUEUE_NAMESPACE>_submit_<random>`, which is deleted at the end. With a job log, --wait also
    shows each failed attempt, and the time until the next one.
    """
    common = {"bucket_name": folder, "postback_url": postback_url, "redirect_queue": redirect_queue}
    queue = queue_name() if wait else None
    try:
        if wait and redirect_queue:
            raise SubmitError("--wait receives the results itself: leave out --redirect-queue.")
        lines = numbered_lines(file) if file else {}
        submissions = read_submissions(urls or [], lines, {name: value for name, value in common.items() if value})
        validate(submissions, waiting_on=queue)
    except SubmitError as error:
        fail(error)
    report = Report(console, as_json=as_json, waiting=wait)
    try:
        with interruptible():
            if queue:
                with result_queue(queue) as url, nullcontext() if as_json else console.status("Waiting for results …"):
                    send(submissions, report.sent)
                    wait_for_results(submissions, url, timeout, report.ended, report.waits)
            else:
                send(submissions, report.sent)
    except KeyboardInterrupt:
        report.interrupted(submissions)
        raise
    report.summary(submissions)
    if any(job.status not in {"sent", "done"} for job in submissions):
        raise typer.Exit(1)
