"""When a source is due for a re-check, and which covers are outdated."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.images.content_id import content_id, recipe_id
from pipeline.job import Content, Known
from pipeline.recipe import Recipe, parse_rendition
from pipeline.sweeps.recheck import DocumentImage, RecheckScope, content_id_of, latest_time
from pipeline.sweeps.sources import Record

NOW = datetime(2026, 3, 1, 2, 30, tzinfo=UTC)
DAY = timedelta(days=1)
URL = "https://feeds.example/cover.jpg"


def scope(
    now: datetime = NOW, since: timedelta = DAY, *, everything: bool = False, outdated: bool = False
) -> RecheckScope:
    return RecheckScope(["episodes"], now, now - since, everything, outdated)


def checked(at: datetime) -> Record:
    return Record(URL, None, "", at, None)


def test_the_times_of_a_source_are_one_period_apart() -> None:
    first = latest_time(URL, NOW, 30)
    assert NOW - 30 * DAY < first <= NOW
    second = timedelta(seconds=1)  # the times are computed as floats
    assert abs(latest_time(URL, first + second, 30) - first) < second
    assert abs(latest_time(URL, first - second, 30) - (first - 30 * DAY)) < second
    assert abs(latest_time(URL, NOW + 30 * DAY, 30) - (first + 30 * DAY)) < second


def test_a_source_is_due_if_it_was_last_asked_before_its_time() -> None:
    due = latest_time(URL, NOW, 30)
    assert scope().is_due(URL, checked(due - timedelta(seconds=1)), 30)
    assert not scope().is_due(URL, checked(due), 30)


def test_a_source_that_was_never_asked_is_due_if_its_time_came_since_the_last_run() -> None:
    due = latest_time(URL, NOW, 30)
    assert not scope(since=NOW - due).is_due(URL, None, 30)
    assert scope(since=NOW - due + timedelta(seconds=1)).is_due(URL, None, 30)


@pytest.mark.parametrize("days", [0, 30])
def test_everything_is_due_only_on_request(days: int) -> None:
    assert scope(everything=True).is_due(URL, checked(NOW), days)
    assert not scope().is_due(URL, checked(NOW), days)


def test_without_a_period_nothing_is_due() -> None:
    assert not scope(since=400 * DAY).is_due(URL, checked(NOW - 400 * DAY), 0)


@pytest.mark.parametrize("days", [0, 30])
def test_outdated_covers_are_due_at_once_unless_their_sources_fail(days: int) -> None:
    assert scope(outdated=True).is_due(URL, None, days)
    assert scope(outdated=True).is_due(URL, checked(NOW), days)
    assert not scope(outdated=True).is_due(URL, replace(checked(NOW), failures=1), days)
    assert scope(outdated=True, everything=True).is_due(URL, replace(checked(NOW), failures=1), days)


def test_the_source_of_an_outdated_cover_that_failed_is_due_at_its_time() -> None:
    failed = replace(checked(latest_time(URL, NOW, 30)), failures=1)
    # given a clock that stands one period later
    assert not scope(outdated=True).is_due(URL, failed, 30)
    assert scope(NOW + 30 * DAY, outdated=True).is_due(URL, failed, 30)


@pytest.mark.parametrize("hours", [24, 6])
def test_the_rate_is_even_over_the_period(hours: int) -> None:
    # Given 20,000 sources, and runs every night or every six hours
    step, urls = timedelta(hours=hours), [f"https://feeds.example/{n}.jpg" for n in range(20_000)]
    due = {url: latest_time(url, NOW + 7 * DAY, 7) for url in urls}
    # When a source is due, then its run is the next one.
    runs = Counter(-((NOW - at) // step) for at in due.values())
    # Then no run has far more than the others.
    share = 20_000 * hours / 24 / 7
    assert len(runs) == 7 * 24 // hours
    assert all(0.8 * share < number < 1.2 * share for number in runs.values())


@pytest.mark.parametrize(
    ("pictures", "found"),
    [
        ({"a": {"url": f"https://s3/b/images-resized/A/{'0' * 32}_50x50.png"}}, "0" * 32),
        ({"a": {"url": f"/{'0' * 32}_1x1.png"}, "b": {"url": f"/{'1' * 32}_2x2.png"}}, ""),
        ({"a": {"url": "https://elsewhere/cover.png"}}, ""),
        ({"a": {"url": 7}, "b": None}, ""),
        ({}, ""),
        (None, ""),
        ("text", ""),
    ],
)
def test_the_content_of_pictures_is_read_from_their_urls(pictures: object, found: str) -> None:
    assert content_id_of(pictures) == found


# Outdated covers.

SIZES = tuple(map(parse_rendition, ("50x50", "80x80")))
RECIPE = Recipe(SIZES)


def made_by(recipe: Recipe, source: bytes = b"source") -> DocumentImage:
    names = frozenset(each.name for each in recipe.renditions)
    return DocumentImage("episodes", "itunes_image", 1, URL, "A", content_id(source, recipe), names)


def known(recipe: Recipe, source: bytes = b"source") -> Record:
    content = Content(content_id(source, recipe), ".png", recipe)
    return Record(URL, Known(content), recipe_id(recipe), NOW, NOW)


@pytest.mark.parametrize(
    ("cover", "record", "expected"),
    [
        (made_by(RECIPE), known(RECIPE), True),
        (made_by(Recipe(SIZES, "contain")), known(Recipe(SIZES, "contain")), False),
        (made_by(Recipe(SIZES, formats="jpeg,png")), known(Recipe(SIZES, formats="jpeg,png")), False),
        (made_by(Recipe(SIZES[:1])), known(Recipe(SIZES[:1])), False),
        (made_by(Recipe(SIZES[:1])), None, False),
        # the order of renditions is part of a recipe, and a fit that is written out makes no difference
        (made_by(Recipe(SIZES[::-1])), known(Recipe(SIZES[::-1])), False),
        (made_by(Recipe((SIZES[0]._replace(fit="cover"), SIZES[1]))), known(RECIPE), True),
        # another document of the URL has been renewed
        (made_by(Recipe(SIZES, "contain")), known(RECIPE), False),
        (made_by(RECIPE, b"former"), known(RECIPE), False),
        # nothing is known
        (made_by(RECIPE), None, None),
        (made_by(RECIPE), checked(NOW), None),
        (made_by(Recipe(SIZES, "fill")), None, None),
        # another release made the pictures, or another one wrote the record
        (made_by(RECIPE), replace(known(RECIPE), recipe="0" * 32), False),
        (made_by(RECIPE), replace(known(RECIPE), recipe=""), False),
    ],
)
def test_the_recipe_of_pictures_follows_from_their_names_and_from_what_is_known(
    cover: DocumentImage, record: Record | None, expected: bool | None
) -> None:
    assert cover.is_made_by(RECIPE, record) is expected
    # and a run over outdated covers takes all but those of the present recipe
    assert scope(outdated=True).selects(cover, record, RECIPE) is (expected is not True)
    assert scope().selects(cover, record, RECIPE)


def test_a_cover_without_pictures_is_not_outdated() -> None:
    cover = DocumentImage("episodes", "itunes_image", 1, URL, "A", "")
    assert not scope(outdated=True).selects(cover, None, RECIPE)
    assert scope().selects(cover, None, RECIPE)
