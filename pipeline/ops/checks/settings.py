"""Checks of the settings as a whole, and of this host: memory, image libraries and clock."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pipeline.images.codecs import fast_paths
from pipeline.images.sandbox import why_unfiltered
from pipeline.ops.checks.environment import unread_variables
from pipeline.ops.checks.model import Check, Context, Row, fail, is_local, ok, skip, warn
from pipeline.ops.checks.secrets import check_secrets
from pipeline.setting_types import NO_PROOF, Network
from pipeline.settings import DEFAULT_USER_AGENT
from pipeline.stages import STAGES
from pipeline.text import plural

#: Allowed clock skew in seconds. Receivers of signed postbacks allow 5 min (the tolerance of the Standard Webhooks
#: libraries), AWS 15 min (S3: MaxAllowedSkewMilliseconds; SQS: AboutTimestamp in its guide).
SKEW_WARN: Final = 60
SKEW_FAIL: Final = 300

#: Memory of one resize process in bytes: the largest accepted image, one at a time, and the sources of its threads
#: (docs/deploying.md). Resize starts one process per core.
RESIZE_BYTES: Final = 2_000_000_000

#: The limits of this container, as the kernel shows them. Without a container, they are those of the host.
CGROUP: Final = Path("/sys/fs/cgroup")

#: Networks that an untrusted URL must not reach: this host, and the metadata service of a cloud.
_FORBIDDEN = tuple(ipaddress.ip_network(text) for text in ("127.0.0.0/8", "::1/128", "169.254.0.0/16", "fe80::/10"))


#: The variables that open networks.
_OPENING: Final = ("ALLOWED_NETWORKS", "FETCH_ALLOWED_NETWORKS", "POSTBACK_ALLOWED_NETWORKS")


def _variables(context: Context) -> Iterator[Row]:
    """Read the environment."""
    given = context.settings.model_fields_set
    yield ok("variables", f"{len(given)} are set, and every value is valid.")
    yield from unread_variables(context.settings)
    for service in ("S3", "SQS"):
        key = getattr(context.settings, f"aws_access_key_{service.lower()}")
        if key and key.get_secret_value().startswith("ASIA"):
            yield fail(
                f"AWS_ACCESS_KEY_{service}",
                "It is a temporary key (ASIA…), which works only together with a session token.",
                "Unset it, and set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; or use a role.",
            )


def _job_key(context: Context) -> Iterator[Row]:
    """Check the key of the proof that jobs carry."""
    keys = context.settings.job_keys
    if NO_PROOF in keys:
        yield warn(
            "JOB_KEY",
            "It still accepts jobs without a proof.",
            "Remove `none` once the jobs from before its introduction have ended.",
        )
    elif keys:
        yield ok("JOB_KEY", f"Jobs between stages prove that this service made them, by {plural(len(keys), 'key')}.")
    elif is_local(context.settings):
        yield ok("JOB_KEY", "It is not needed on this machine, where SQS runs.")
    else:
        yield warn(
            "JOB_KEY",
            "Jobs between stages carry no proof: whoever may send to a stage's queue can overwrite any cover.",
            "Set it to the output of `openssl rand -hex 32` for all processes, but not for producers.",
        )


def _user_agent(context: Context) -> Iterator[Row]:
    """Hint at the default: hosts block or captcha agents whose operator they cannot reach."""
    agent = context.settings.user_agent
    if agent != DEFAULT_USER_AGENT or is_local(context.settings):
        yield ok("USER_AGENT", f"Fetch and postbacks present themselves as {agent!r}.")
    else:
        yield warn(
            "USER_AGENT",
            "It is the default, which names no operator. Hosts of podcasts block agents that they cannot contact.",
            "Set it to the name of your service and a contact URL: `ExamplePodcasts/1.0 (+https://example.com/bot)`.",
        )


def _networks(context: Context) -> Iterator[Row]:
    """Check each variable that opens networks; without any, URLs reach only public addresses."""
    settings = context.settings
    opened = {name: networks for name in _OPENING if (networks := getattr(settings, name.lower()))}
    for name, networks in opened.items():
        yield _opened(name, networks, is_emulated=is_local(settings))
    if not opened:
        yield ok(_OPENING[0], "URLs reach only public addresses.")


def _opened(name: str, networks: tuple[Network, ...], *, is_emulated: bool) -> Row:
    wide = [network for network in networks if network.prefixlen == 0]
    inward = [
        network
        for network in networks
        if any(network.version == never.version and network.overlaps(never) for never in _FORBIDDEN)
    ]
    if wide or (inward and not is_emulated):
        listed = ", ".join(str(network) for network in (wide or inward))
        reached = "everything" if wide else "this host or the cloud's metadata service, which returns credentials"
        return warn(
            name,
            f"{listed} lets untrusted URLs reach {reached}.",
            "List only hosts that you trust, such as 10.1.2.3/32.",
        )
    return ok(name, f"URLs reach public addresses and {', '.join(map(str, networks))}.")


def _memory(context: Context) -> Iterator[Row]:
    """Check that each resize process has enough memory for the largest image."""
    processes = cores()
    needs = processes * RESIZE_BYTES
    has = memory()
    figures = f"{processes} process{'' if processes == 1 else 'es'} of {RESIZE_BYTES / 1e9:.0f} GB, one per core"
    if processes < (os.cpu_count() or 1):  # dramatiq's default
        figures += f" that this container may use (start resize with `--processes {processes}`)"
    if needs > has:
        yield warn(
            "memory",
            f"It is too small if every resize process gets the largest image at once: {figures}; this host has "
            f"{has / 1e9:.1f} GB.",
            "Lower MAX_DECODED_PIXELS and MAX_SOURCE_PIXELS, or start resize with fewer `--processes`.",
        )
    else:
        yield ok("memory", f"It is enough for resize: {figures}, of {has / 1e9:.1f} GB.")


def _codecs(_: Context) -> Iterator[Row]:
    """Report the libraries that process pixels. Without the fast ones, an image takes two to four times the CPU."""
    for work, library in fast_paths().items():
        if library != "Pillow":
            yield ok(work, f"By {library}.")
        else:
            hint = "Install the package with all dependencies; `LEVEL=DEBUG` logs why an installed library is unused."
            yield warn(work, "By Pillow instead of the faster library; the images are equally good.", hint)


def _sandbox(_: Context) -> Iterator[Row]:
    """Start the process that decodes images, and report whether the kernel confines it."""
    try:
        reason = why_unfiltered()
    except RuntimeError as error:
        yield fail("sandbox", f"Images cannot be decoded: {error}.", "Its traceback is on standard error.")
        return
    if reason:
        yield warn(
            "sandbox",
            f"Images are decoded without a filter of system calls: {reason}. Limits of memory, time and files remain.",
            "Run resize on Linux with seccomp, and in a container that allows the system call.",
        )
    else:
        yield ok("sandbox", "Images are decoded in a process without files, network or secrets.")


def memory() -> int:
    """Return the memory of this host or container, in bytes."""
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_limit("memory.max")])


def cores() -> int:
    """Return the number of cores that this host or container may use: of its CPU set, and of its share of their time.

    A share is rounded up, because half a core is a core that is slow. Python counts the cores of the node.
    """
    affine = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    match _limit("cpu.max"):
        case [quota, period]:
            return min(affine, -(-quota // period))
    return affine


def _limit(name: str) -> list[int]:
    """Return the numbers in a file of the cgroup; empty if there is no limit."""
    try:
        words = (CGROUP / name).read_text(encoding="ascii").split()
    except OSError:
        return []
    return list(map(int, words)) if all(map(str.isdigit, words)) else []


def _clock(context: Context) -> Iterator[Row]:
    """Compare the clock with the Date header of the first responses of SQS and S3; errors have one too."""
    if not context.skews:
        yield skip("clock", "No response contained the time.")
    for service, skew in sorted(context.skews.items(), reverse=True):  # the services are asked side by side
        name = f"clock ({service})"
        message = f"This host is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} {service}"
        hint = "Set the clock: `timedatectl set-ntp true`, or chronyd."
        if abs(skew) > SKEW_FAIL:
            message += ": receivers reject signed postbacks, and beyond 15 min AWS rejects all requests."
            yield fail(name, message, hint)
        elif abs(skew) > SKEW_WARN:
            yield warn(name, f"{message}; beyond {SKEW_FAIL} s, signatures are rejected.", hint)
        else:
            yield ok(name, f"It agrees within {max(1, abs(skew)):.0f} s.")


CHECKS = (
    Check("Settings", "variables", _variables),
    Check("Settings", "secrets", check_secrets, frozenset({"notify"})),
    Check("Settings", "job key", _job_key, frozenset({"ingest", "sweep", *(stage.name for stage in STAGES)})),
    Check("Settings", "user agent", _user_agent, frozenset({"fetch", "notify"})),
    Check("Settings", "networks", _networks, frozenset({"fetch", "notify"})),
)

HOST_CHECKS = (
    Check("This host", "memory", _memory, frozenset({"resize"})),
    Check("This host", "codecs", _codecs, frozenset({"resize"})),
    Check("This host", "sandbox", _sandbox, frozenset({"resize"})),
    Check("This host", "clock", _clock),
)
