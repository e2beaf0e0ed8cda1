"""Checks of what the settings say together, and of this host: its memory, and its clock beside AWS's."""

from __future__ import annotations

import ipaddress
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pipeline.images.codecs import fast_paths
from pipeline.ops.checks.model import Check, CheckStatus, Context, Row
from pipeline.settings import PUBLISHED_POSTBACK_SECRET, Settings, beside_settings

#: Seconds that a clock may be off. Receivers of signed postbacks allow 5 min (the tolerance of Standard Webhooks'
#: libraries), and AWS 15: S3 says so as MaxAllowedSkewMilliseconds, SQS in its guide (AboutTimestamp).
SKEW_WARN: Final = 60
SKEW_FAIL: Final = 300

#: Bytes for each process of resize, which starts one for each core: the largest image that is accepted, one at a time,
#: and the sources of its threads (docs/deploying.md).
RESIZE_BYTES: Final = 2_000_000_000

#: Where there is no wheel of cykooz-resizer, and nothing to do about it.
_LACKS_RESIZER: Final = sys.platform == "linux" and platform.machine() != "x86_64"

#: The networks that a stranger's URL should never reach: this host, and the metadata service of a cloud.
_NEVER = tuple(ipaddress.ip_network(text) for text in ("127.0.0.0/8", "::1/128", "169.254.0.0/16", "fe80::/10"))


def _variables(context: Context) -> Iterator[Row]:
    given = context.settings.model_fields_set
    yield Row(CheckStatus.OK, "variables", f"{len(given)} are set, and every value is accepted.")
    for name, message, hint in beside_settings():
        yield Row(CheckStatus.WARN, name, message, hint)
    for service in ("S3", "SQS"):
        key = getattr(context.settings, f"aws_access_key_{service.lower()}")
        if key and key.get_secret_value().startswith("ASIA"):
            yield Row(
                CheckStatus.FAIL,
                f"AWS_ACCESS_KEY_{service}",
                "It is a temporary key (ASIA…), which works only with a session token, and this variable has none.",
                "Unset it, and set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; or use a role.",
            )


def _secrets(context: Context) -> Iterator[Row]:
    settings = context.settings
    published = settings.postback_secret_key.get_secret_value() == PUBLISHED_POSTBACK_SECRET
    if _is_local(settings):
        message = "Nobody outside sees it: SQS is on this machine."
        yield Row(CheckStatus.OK, "POSTBACK_SECRET_KEY", message)
        return
    if published:
        yield Row(
            CheckStatus.WARN,
            "POSTBACK_SECRET_KEY",
            "It is the published default: anybody can forge a postback.",
            "Set a secret of your own, in the receivers too.",
        )
    else:
        yield Row(CheckStatus.OK, "POSTBACK_SECRET_KEY", "It is not the published default.")
    if settings.postback_signing_secret is None:
        yield Row(
            CheckStatus.WARN,
            "POSTBACK_SIGNING_SECRET",
            "Postbacks are not signed: whoever saw one can forge the next.",
            'Set it to the output of `echo "whsec_$(openssl rand -base64 32)"`, and let the receivers verify.',
        )
    else:
        yield Row(CheckStatus.OK, "POSTBACK_SIGNING_SECRET", "Postbacks are signed.")


def _networks(context: Context) -> Iterator[Row]:
    settings = context.settings
    name = "ALLOWED_NETWORKS"
    wide = [network for network in settings.allowed_networks if network.prefixlen == 0]
    inward = [
        network
        for network in settings.allowed_networks
        if any(network.version == never.version and network.overlaps(never) for never in _NEVER)
    ]
    if wide or (inward and not _is_local(settings)):
        opened = ", ".join(str(network) for network in (wide or inward))
        what = "everything" if wide else "this host or the cloud's metadata service, which hands out credentials"
        yield Row(
            CheckStatus.WARN,
            name,
            f"{opened} lets every stranger's URL reach {what}.",
            "Name single hosts that you trust, as 10.1.2.3/32.",
        )
    elif settings.allowed_networks:
        opened = ", ".join(map(str, settings.allowed_networks))
        yield Row(CheckStatus.OK, name, f"Beside public addresses, URLs reach {opened}.")
    else:
        yield Row(CheckStatus.OK, name, "URLs reach public addresses only.")


def _memory(context: Context) -> Iterator[Row]:
    """Whether every process of resize has room for the worst image."""
    cores = os.cpu_count() or 1  # by which dramatiq goes
    needs = cores * RESIZE_BYTES
    has = memory()
    figures = f"{cores} processes of {RESIZE_BYTES / 1e9:.0f} GB, one for each core"
    if needs > has:
        yield Row(
            CheckStatus.WARN,
            "memory",
            f"Resize may need more than there is, if each process meets the worst image: {figures}; this host has "
            f"{has / 1e9:.1f} GB.",
            "Lower MAX_DECODED_PIXELS and MAX_SOURCE_PIXELS, or start resize with fewer `--processes`.",
        )
    else:
        yield Row(CheckStatus.OK, "memory", f"Enough for resize: {figures}, of {has / 1e9:.1f} GB.")


def _codecs(_: Context) -> Iterator[Row]:
    """Which libraries do the work on pixels; without the fast ones, an image takes two to four times the CPU."""
    for work, library in fast_paths().items():
        if library != "Pillow" or (work == "resizing" and _LACKS_RESIZER):
            yield Row(CheckStatus.OK, work, f"By {library}.")
        else:
            hint = "Install the package with all it requires; `LEVEL=DEBUG` logs why one that is installed is not used."
            yield Row(CheckStatus.WARN, work, "By Pillow, not by the faster library: the pictures are as good.", hint)


def memory() -> int:
    """Bytes that this host, or the container this runs in, has."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(limit).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            sizes.append(int(text))
    return min(sizes)


def _clock(context: Context) -> Iterator[Row]:
    """By the Date of the answers that opened SQS and S3; refusals have one too."""
    if not context.skews:
        yield Row(CheckStatus.SKIP, "clock", "Nothing that answered told the time.")
    for service, skew in context.skews.items():
        name = f"clock ({service})"
        message = f"This host is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} {service}"
        hint = "Set the clock: `timedatectl set-ntp true`, or chronyd."
        if abs(skew) > SKEW_FAIL:
            message += ": receivers refuse signed postbacks, and beyond 15 min AWS refuses all."
            yield Row(CheckStatus.FAIL, name, message, hint)
        elif abs(skew) > SKEW_WARN:
            yield Row(CheckStatus.WARN, name, f"{message}; beyond {SKEW_FAIL} s signatures are refused.", hint)
        else:
            yield Row(CheckStatus.OK, name, f"It agrees within {max(1, abs(skew)):.0f} s.")


def _is_local(settings: Settings) -> bool:
    """Whether SQS is an emulator on this machine, and nothing of this is for the world."""
    host = urlsplit(settings.sqs_endpoint or "").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


CHECKS = (
    Check("Settings", "variables", "Reads the environment.", _variables),
    Check("Settings", "secrets", "Looks at the postbacks' secrets.", _secrets, frozenset({"notify"})),
    Check(
        "Settings", "networks", "Looks at what strangers' URLs may reach.", _networks, frozenset({"fetch", "notify"})
    ),
)

HOST_CHECKS = (
    Check("This host", "memory", "Compares its memory with what resize may need.", _memory, frozenset({"resize"})),
    Check("This host", "codecs", "Looks which libraries work on pixels.", _codecs, frozenset({"resize"})),
    Check("This host", "clock", "Compares its clock with the Date of SQS's and S3's answers.", _clock),
)
