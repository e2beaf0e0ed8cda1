"""The types of the settings' fields: how a variable's text becomes a value, or is refused."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from pipeline.images.limits import MAX_RENDITION_PIXELS
from pipeline.recipe import RenditionSize, check_apart, parse_rendition
from pipeline.schedule import Schedule

#: The secret published in the documentation of the previous system. Receivers may still compare with it.
PUBLISHED_POSTBACK_SECRET = "47/:6WT?v5edl|W}Dt&#TK5.hwe>3,"  # noqa: S105

#: Minimum number of characters in DASHBOARD_TOKEN.
SHORTEST_TOKEN = 16

#: Minimum number of characters of each key in JOB_KEY.
SHORTEST_JOB_KEY = 32

#: Stands for the absence of a proof among the keys of JOB_KEY, while the first key is introduced.
NO_PROOF = "none"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
T = TypeVar("T")


@dataclass(frozen=True)
class PortRange:
    """Ports from `first` to `last`."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def _renditions(items: tuple[RenditionSize, ...]) -> tuple[RenditionSize, ...]:
    if not items:
        raise ValueError("it must contain at least one rendition")
    check_apart(items)
    if large := [item.name for item in items if item.width * item.height > MAX_RENDITION_PIXELS]:
        raise ValueError(f"{large[0]!r} has more than {MAX_RENDITION_PIXELS} pixels, the most for a rendition")
    for extension in sorted({item.extension for item in items} - {""}):
        from pipeline.images.encoding import check_writable  # noqa: PLC0415 - most processes need no Pillow

        check_writable(extension)
    return items


def _comma_separated(parse: Callable[[str], T]) -> BeforeValidator:
    """Return a validator that parses `a,b,c` into a tuple, each item with `parse`."""

    def split(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(parse(item.strip()) for item in value.split(",") if item.strip())

    return BeforeValidator(split)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        nearest = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a network, such as 10.0.0.0/8 or fd00::/8") from None
    raise ValueError(f"{text!r} is an address in a network: did you mean {nearest}?")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number of seconds") from None
    if not 0 <= seconds <= 14 * 86400:  # SQS keeps messages for at most 14 days
        raise ValueError("a delay must be from 0 to 1209600 seconds")
    return seconds


def _ports(text: str) -> PortRange:
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= 65535:
        raise ValueError(f"{text!r} is not a port or a range of ports, such as 443 or 1024-65535")
    return PortRange(first, last)


def _queue_pattern(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.*?-]{1,80}", text):
        raise ValueError(f"{text!r} is not a queue name, in which * stands for any characters and ? for one")
    return text


def _cron(value: str) -> str:
    try:
        Schedule(value)
    except ValueError as error:
        raise ValueError(f"it must be five fields in cron's notation, or a nickname like @daily ({error})") from None
    return value


def _url(*schemes: str) -> AfterValidator:
    def check(value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in schemes or not (parts.netloc or parts.path) or "@" in parts.netloc:
                starts = " or ".join(f"{scheme}://" for scheme in schemes)
                raise ValueError(f"it must be a URL that starts with {starts} and contains no password")
        return value

    return AfterValidator(check)


def _signing_secrets(value: SecretStr | None) -> SecretStr | None:
    secrets = value.get_secret_value().split() if value else []
    if value and not (secrets and all(map(_is_signing_secret, secrets))):
        raise ValueError(
            "it must be a Standard Webhooks secret, whsec_ and the base64 of 24 to 64 bytes, or several with spaces "
            "between them"
        )
    return value


def _is_signing_secret(text: str) -> bool:
    try:
        size = len(base64.b64decode(text.removeprefix("whsec_"), validate=True))
    except ValueError:
        return False
    return 24 <= size <= 64  # https://github.com/standard-webhooks/standard-webhooks/blob/main/spec


def _token(value: SecretStr | None) -> SecretStr | None:
    if value is not None and len(value.get_secret_value()) < SHORTEST_TOKEN:
        raise ValueError(f"it must be at least {SHORTEST_TOKEN} characters")
    return value


def _job_key(value: SecretStr | None) -> SecretStr | None:
    keys = [key for key in value.get_secret_value().split() if key != NO_PROOF] if value else []
    if value and not (keys and all(len(key) >= SHORTEST_JOB_KEY for key in keys)):
        raise ValueError(
            f"it must be a key of at least {SHORTEST_JOB_KEY} characters, or several with spaces between them"
        )
    return value


def _mongo_url(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        try:
            parts = urlsplit(value.get_secret_value())
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in {"mongodb", "mongodb+srv"} or not parts.netloc or not parts.path.strip("/"):
            raise ValueError("it must be mongodb:// or mongodb+srv:// with the name of its database in the path")
    return value


def _segments(value: str) -> str:
    if not all(part.strip(".") for part in value.split("/")):
        raise ValueError("it must be one or more names separated by /, such as images/resized")
    return value


Cron = Annotated[str, AfterValidator(_cron)]
Delays = Annotated[tuple[float, ...], NoDecode, _comma_separated(_seconds)]
HttpUrl = Annotated[str | None, _url("http", "https")]
JobKeys = Annotated[SecretStr | None, AfterValidator(_job_key)]
MongoUrl = Annotated[SecretStr | None, AfterValidator(_mongo_url)]
Networks = Annotated[tuple[Network, ...], NoDecode, _comma_separated(_network)]
Ports = Annotated[tuple[PortRange, ...], NoDecode, _comma_separated(_ports)]
Positive = Annotated[float, Field(gt=0, le=86400)]
Prefix = Annotated[str, AfterValidator(_segments)]
QueuePatterns = Annotated[tuple[str, ...], NoDecode, _comma_separated(_queue_pattern)]
Renditions = Annotated[
    tuple[RenditionSize, ...], NoDecode, _comma_separated(parse_rendition), AfterValidator(_renditions)
]
SigningSecrets = Annotated[SecretStr | None, AfterValidator(_signing_secrets)]
StagingUrl = Annotated[str | None, _url("s3", "file")]
Token = Annotated[SecretStr | None, AfterValidator(_token)]
