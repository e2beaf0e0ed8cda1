"""Renders the small corpus in child processes with limits, and proves that they detect every kind of harm."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.images import codecs
from tests.corpus import examine, samples
from tests.corpus.child import MIB, Child, Kind, Limits, Work
from tests.corpus.mutate import mutated
from tests.corpus.run import run
from tests.corpus.run import samples as samples_in

ROOT = Path(__file__).parents[3]
NAME = "40x40.png"
MakeChild = Callable[..., Child]


@pytest.fixture
def make_child() -> Iterator[MakeChild]:
    made: list[Child] = []

    def make(work: Work, limits: Limits | None = None) -> Child:
        made.append(Child(limits or Limits(), work))
        return made[-1]

    yield make
    for child in made:
        child.close()


# The small corpus


def test_every_file_of_the_small_corpus_has_its_expected_result(tmp_path: Path) -> None:
    # Given good and bad files of every kind
    expected = samples.write(tmp_path)
    # When they are rendered
    results = run(list(samples_in(tmp_path)))
    # Then the good files have renditions, and the bad files their error codes
    assert {sample.name: (outcome.kind, outcome.detail) for sample, outcome in results} == expected


def test_no_broken_copy_of_the_small_corpus_does_harm(tmp_path: Path) -> None:
    # Given the good files of the small corpus
    for name, data, _ in samples.good():
        (tmp_path / name).write_bytes(data)
    # When they and a broken copy of each are rendered
    results = list(run(list(samples_in(tmp_path, copies=1))))
    # Then none crashes, hangs, takes much memory or raises an error without a code, and some copies are rejected.
    assert [(sample.name, outcome) for sample, outcome in results if not outcome.kind.is_good] == []
    assert {outcome.detail for _, outcome in results} >= {"broken_image", "not_an_image", "JPEG", "PNG"}


def test_a_decoder_that_dies_is_a_crash(make_child: MakeChild) -> None:
    # Given the default child, whose decoder of PNGs ends its process
    child = make_child(dies_decoding)
    # When it renders a good PNG
    outcome = child.render(samples.encoded(samples.picture(), "PNG"))
    # Then that is a crash, although the service would refuse the image
    assert outcome[:2] == (Kind.CRASH, "SIGSEGV")


def dies_decoding(source: bytes) -> dict[str, bytes]:
    codecs.decode_png = lambda *_: ctypes.string_at(0)  # type: ignore[assignment, return-value]
    return dict(examine.rendered(source))


# Harmful sources: each of these functions stands for the rendering of a source


def crashes(source: bytes) -> dict[str, bytes]:
    ctypes.string_at(0)
    raise AssertionError


def hangs(source: bytes) -> dict[str, bytes]:
    time.sleep(600)
    raise AssertionError


def raises(source: bytes) -> dict[str, bytes]:
    raise KeyError("tile")


def lacks_memory(source: bytes) -> dict[str, bytes]:
    from pipeline.errors import RetryableError

    raise RetryableError("out_of_memory", "There was not enough memory.")


def fills_memory(source: bytes) -> dict[str, bytes]:
    kept = []
    while True:
        kept.append(b"x" * MIB)


@pytest.mark.parametrize(
    ("work", "kind", "detail"),
    [
        (crashes, Kind.CRASH, "SIGSEGV"),
        (raises, Kind.UNTYPED, "KeyError: 'tile'"),
        (lacks_memory, Kind.MEMORY, "out_of_memory"),
    ],
)
def test_harm_is_detected(make_child: MakeChild, work: Work, kind: Kind, detail: str) -> None:
    # Given a child process and a harmful source
    child = make_child(work)
    # When it renders the source twice
    outcomes = [child.render(b"source") for _ in range(2)]
    # Then both results name the harm, because a dead child is replaced.
    assert [outcome[:2] for outcome in outcomes] == [(kind, detail)] * 2
    assert not kind.is_good


def test_a_child_above_its_time_limit_is_killed(make_child: MakeChild) -> None:
    # Given a child process whose rendering never ends
    child = make_child(hangs, Limits(seconds=0.2))
    # When it renders a source
    outcome = child.render(b"source")
    # Then it is killed.
    assert outcome[:2] == (Kind.HANG, "over 0.2 s")
    assert not outcome.kind.is_good


def test_a_child_above_its_memory_limit_is_killed(make_child: MakeChild) -> None:
    # Given a child process whose rendering takes all memory
    child = make_child(fills_memory, Limits(memory=200 * MIB))
    # When it renders a source
    outcome = child.render(b"source")
    # Then it is killed slightly above its limit.
    assert outcome.kind is Kind.MEMORY
    assert 200 * MIB < outcome.peak < 1000 * MIB


# Measurements of a child


def takes(source: bytes) -> dict[str, bytes]:
    """Allocate and free as many MiB as the source specifies."""
    bytes(b"x" * (int(source) * MIB))
    return {NAME: samples.encoded(samples.picture(size=(40, 40)), "PNG")}


def test_a_peak_belongs_to_one_source(make_child: MakeChild) -> None:
    # Given a child
    child = make_child(takes)
    # When a source takes 300 MiB, and the next takes nothing
    large, small = child.render(b"300"), child.render(b"0")
    # Then each result has its own peak.
    assert large.peak > 300 * MIB > 200 * MIB > small.peak
    assert (large.kind, small.kind) == (Kind.OK, Kind.OK)


# Checks of renditions


def wrong(name: str, source_format: str, **options: object) -> dict[str, bytes]:
    return {name: samples.encoded(samples.picture(size=(40, 40)), source_format, **options)}


def has_another_size(source: bytes) -> dict[str, bytes]:
    return wrong("40x41.png", "PNG")


def has_another_format(source: bytes) -> dict[str, bytes]:
    return wrong("40x40.jpeg", "PNG")


def is_cut(source: bytes) -> dict[str, bytes]:
    return {name: data[:-40] for name, data in wrong("40x40.jpeg", "JPEG").items()}


def has_exif(source: bytes) -> dict[str, bytes]:
    return wrong("40x40.jpeg", "JPEG", exif=samples.exif())


def has_frames(source: bytes) -> dict[str, bytes]:
    return wrong("40x40.gif", "GIF", save_all=True, append_images=[samples.picture("1", (40, 40))])


@pytest.mark.parametrize(
    ("work", "detail"),
    [
        (has_another_size, "40x41.png: size (40, 40)"),
        (has_another_format, "cannot identify"),
        (is_cut, "truncated"),
        (has_exif, "metadata"),
        (has_frames, "frames 2"),
    ],
)
def test_a_wrong_rendition_is_detected(make_child: MakeChild, work: Work, detail: str) -> None:
    outcome = make_child(work).render(b"source")
    assert outcome.kind is Kind.WRONG
    assert detail in outcome.detail


# Copies and commands


def test_a_copy_is_broken_in_the_same_places_at_each_run() -> None:
    data = samples.encoded(samples.picture(), "PNG")
    copies = [mutated(data, f"1 a.png {number}") for number in range(50)]
    assert copies == [mutated(data, f"1 a.png {number}") for number in range(50)]
    assert len({data, *copies}) > 45
    assert mutated(b"", "1") == b""


def test_the_command_fails_only_if_something_did_harm(tmp_path: Path) -> None:
    # Given a nested folder with a good and a broken file
    (tmp_path / "in/covers").mkdir(parents=True)
    (tmp_path / "in/covers/a.png").write_bytes(samples.encoded(samples.picture(), "PNG"))
    (tmp_path / "in/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    command = [sys.executable, "-m", "tests.corpus", str(tmp_path / "in"), "--mutate", "2"]

    def run_with(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)

    # When it is rendered, and then again with almost no memory
    good = run_with("--log", str(tmp_path / "log"))
    bad = run_with("--memory", "1", "--keep", str(tmp_path / "kept"))
    # Then the first run is good and counts all files,
    assert (good.returncode, good.stderr) == (0, "")
    assert "6 files" in good.stdout
    assert "broken_image" in good.stdout
    assert "ok\tPNG\t" in (tmp_path / "log").read_text()
    assert len((tmp_path / "log").read_text().splitlines()) == 6
    # and the second run is not good and keeps the files.
    assert bad.returncode == 1
    assert "over memory" in bad.stdout
    assert len(list((tmp_path / "kept").iterdir())) == 6
    # An empty folder is an error.
    (tmp_path / "empty").mkdir()
    command[3] = str(tmp_path / "empty")
    assert run_with().returncode == 2
