"""Compares results and renditions with the expected outcomes; each difference is a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import requests
from PIL import Image, ImageChops, ImageOps, ImageStat

from pipeline.local.demo.jobs import COMMAND, DemoJob, ExpectedFailure
from pipeline.local.demo.samples import Sample
from pipeline.ops.dead_letters.actions import browse
from pipeline.ops.dead_letters.dead_letter import DeadLetter
from pipeline.settings import Settings

#: Maximum mean difference (0 to 255) between a rendition and the source as a viewer shows it, both at low resolution.
#: Good renditions differ by up to 6, because a JPEG of 50x50 has few colours; a rotated one by 35 or more.
MAX_DIFFERENCE = 12.0


@dataclass(frozen=True)
class Stored:
    """One rendition, downloaded from its public URL."""

    name: str
    url: str
    headers: Mapping[str, str]
    image: Image.Image


def fetch_back(infos: Mapping[str, Any]) -> dict[str, list[Stored]]:
    """Download the renditions from the URLs in `infos`, by field of the image; skip missing ones."""
    stored: dict[str, list[Stored]] = {}
    for name, info in infos.items():
        for rendition, location in (info or {}).items():
            response = requests.get(location["url"], timeout=10)
            if response.ok:
                image = Image.open(BytesIO(response.content))
                image.load()
                stored.setdefault(name, []).append(Stored(rendition, location["url"], response.headers, image))
    return stored


def dead_letters() -> dict[str, DeadLetter]:
    """Read all dead letters, by job id."""
    return {each.job_id or each.id: each for each in browse()}


def differences(
    job: DemoJob, stored: Mapping[str, Sequence[Stored]], dead: DeadLetter | None, settings: Settings
) -> Iterator[str]:
    """Yield the differences of a job's outcome."""
    if job.arrival is None:
        yield "it has no result"
        return
    yield from job.arrival.complaints
    result = job.arrival.result
    ours = {f"{name}_info" for name in job.expected}
    ours |= {f"{name}_error" for name, outcome in job.expected.items() if isinstance(outcome, ExpectedFailure)}
    ours |= {"postback_secret_key"} if "postback_url" in job.payload else set()
    ours |= {"redirect_queue"} if job.way == COMMAND else set()
    if wrong := set(result) ^ (set(job.payload) | ours):
        yield f"its result has additional or missing fields: {', '.join(sorted(wrong))}"
    if changed := [name for name, value in job.payload.items() if name not in ours and result.get(name) != value]:
        yield f"its result does not return unchanged: {', '.join(changed)}"
    for name, outcome in job.expected.items():
        if isinstance(outcome, ExpectedFailure):
            yield from _failure_differences(name, outcome, result)
        else:
            yield from _info_differences(f"{name}_info", job.infos[name], job.folder, settings)
            yield from _image_differences(outcome, stored.get(name, []), settings)
    yield from _dead_letter_differences(job.expected, dead)


def _dead_letter_differences(
    expected: Mapping[str, Sample | ExpectedFailure], dead: DeadLetter | None
) -> Iterator[str]:
    """Yield the difference of a job's dead letter, or of its absence."""
    failures = [outcome for outcome in expected.values() if isinstance(outcome, ExpectedFailure)]
    wanted = (failures[0].stage, failures[0].code, 1) if failures else None
    found = (dead.stage, dead.code, dead.attempts) if dead else None
    if found != wanted:
        yield f"its dead letter should have stage, code and attempts {wanted}, but has {found}"


def _failure_differences(name: str, wanted: ExpectedFailure, result: Mapping[str, Any]) -> Iterator[str]:
    error = result.get(f"{name}_error") or {}
    if result.get(f"{name}_info", error) is not None:
        yield f"its {name}_info should be null"
    if (error.get("stage"), error.get("code")) != (wanted.stage, wanted.code) or not error.get("message"):
        yield f"its {name}_error should be {wanted.code} in {wanted.stage} with a message, but is {error}"


def _info_differences(name: str, info: Any, folder: str, settings: Settings) -> Iterator[str]:
    """Yield the differences of a field that should contain all renditions in a folder."""
    path = f"{settings.s3_prefix}/{folder}/"
    names = [rendition.name for rendition in settings.renditions]
    if not isinstance(info, dict) or list(info) != names:
        yield f"its {name} should name {', '.join(names)}, but is {info}"
        return
    for rendition, location in info.items():
        good_url = str(location.get("url")).startswith(f"{settings.public_url_base}/{path}")
        if set(location) != {"url", "bucket_path"} or location["bucket_path"] != path or not good_url:
            yield f"its {name} has a wrong {rendition}: {location}"


def _image_differences(sample: Sample, stored: Sequence[Stored], settings: Settings) -> Iterator[str]:
    """Yield the differences between the stored renditions and the sample."""
    by_name = {each.name: each for each in stored}
    for wanted in settings.renditions:
        if wanted.name not in by_name:
            yield f"{sample.title} {wanted.name} is not at its URL"
            continue
        headers, image = by_name[wanted.name].headers, by_name[wanted.name].image
        if image.size != (wanted.width, wanted.height):
            yield f"{sample.title} {wanted.name} has {image.width}x{image.height} pixels"
        if image.format != sample.format or headers.get("Content-Type") != sample.content_type:
            yield f"{sample.title} {wanted.name} is {image.format} ({headers.get('Content-Type')}), not {sample.format}"
        if headers.get("Cache-Control") != settings.cache_control:
            yield f"{sample.title} {wanted.name} has the Cache-Control {headers.get('Cache-Control')!r}"
        if image.getexif():
            yield f"{sample.title} {wanted.name} still has EXIF data"
        if (distance := _distance(image, sample.picture)) > MAX_DIFFERENCE:
            yield f"{sample.title} {wanted.name} does not look like its source (it differs by {distance:.0f} of 255)"


def _distance(image: Image.Image, picture: Image.Image) -> float:
    """Return the difference between the image and the picture, which is cropped to the same size."""
    wanted = ImageOps.fit(picture.convert("RGBA"), image.size, Image.Resampling.LANCZOS)
    difference = ImageChops.difference(_coarse(image.convert("RGBA")), _coarse(wanted))
    return max(ImageStat.Stat(difference).mean)


def _coarse(image: Image.Image) -> Image.Image:
    """Reduce colours on grey and alpha to few pixels, so that fine lines and grain do not matter."""
    ground = Image.new("RGBA", image.size, "grey")
    ground.alpha_composite(image)
    ground.putalpha(image.getchannel("A"))
    return ground.resize((16, 16), Image.Resampling.BOX)
