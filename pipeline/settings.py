"""The settings: every environment variable that the service reads, typed, in one frozen object.

The contract, section 6, defines names, defaults and meanings. An empty value counts as unset.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, BeforeValidator, Field, IPvAnyAddress, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.errors import SettingsError
from pipeline.recipe import Fit, Formats, Recipe, RenditionSize
from pipeline.setting_types import (
    PUBLISHED_POSTBACK_SECRET,
    Cron,
    Delays,
    HttpUrl,
    JobKeys,
    MongoUrl,
    Network,
    Networks,
    PortRange,
    Ports,
    Positive,
    Prefix,
    QueuePatterns,
    Renditions,
    SigningSecrets,
    StagingUrl,
    Token,
)
from pipeline.stages import own_queues

#: The agent that fetch and postbacks present themselves as, unless USER_AGENT names the service and a contact.
DEFAULT_USER_AGENT = "Mozilla/5.0 (compatible; image-pipeline)"

#: The value of POSTBACK_SECRET_KEY that sends no shared secret.
NO_SECRET = "none"  # noqa: S105


class Settings(BaseSettings):
    """The settings of a process. Use `get_settings()` to read them."""

    model_config = SettingsConfigDict(env_ignore_empty=True, frozen=True, extra="ignore", populate_by_name=True)

    # AWS. Without these keys, boto3's default chain of credentials applies.
    aws_region: Annotated[str, Field(pattern=r"^[a-z0-9-]{4,32}$")] = "us-east-2"
    aws_access_key_s3: SecretStr | None = None
    aws_secret_key_s3: SecretStr | None = None
    aws_access_key_sqs: SecretStr | None = None
    aws_secret_key_sqs: SecretStr | None = None
    aws_endpoint_url: HttpUrl = None
    aws_endpoint_url_s3: HttpUrl = None
    aws_endpoint_url_sqs: HttpUrl = None

    # Queues.
    queue_url: HttpUrl = None
    queue_namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,60}$")] = "image-pipeline"
    calls_to_update_list_sqs_queues: Annotated[int, Field(ge=1)] = 100_000

    job_key: JobKeys = None

    # Objects.
    s3_bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")] = "images-ch"
    s3_region: Annotated[str | None, Field(pattern=r"^[a-z0-9-]{2,32}$")] = None  # if unset, aws_region
    s3_prefix: Prefix = "images-resized"
    s3_acl: Literal["public-read", "private", "none", "authenticated-read", "bucket-owner-full-control"] = "public-read"
    cache_control: Annotated[str, Field(pattern=r"^[ -~]+$")] = "public, max-age=31536000, immutable"
    public_base_url: HttpUrl = None
    staging_url: StagingUrl = None

    # Images.
    renditions: Renditions = (
        RenditionSize("50x50", 50, 50),
        RenditionSize("250X250", 250, 250),
        RenditionSize("800x800", 800, 800),
    )
    resize_fit: Fit = "cover"
    output_formats: Formats = "source"
    result_details: bool = False
    max_source_bytes: Annotated[int, Field(ge=1)] = 52_428_800
    max_source_pixels: Annotated[int, Field(ge=1)] = 178_000_000
    max_decoded_pixels: Annotated[int, Field(ge=1)] = 50_000_000

    # The network.
    user_agent: Annotated[str, Field(pattern=r"^[!-~]([ -~]{0,254}[!-~])?$")] = DEFAULT_USER_AGENT
    fetch_timeout: Positive = 12.0
    fetch_total_timeout: Positive = 60.0
    fetch_max_per_host: Annotated[int, Field(ge=1)] = 4
    fetch_memory_bytes: Annotated[int, Field(ge=1)] = 268_435_456
    allowed_networks: Networks = ()
    fetch_allowed_networks: Networks = ()
    postback_allowed_networks: Networks = ()
    blocked_networks: Networks = ()
    allowed_ports: Ports = (
        PortRange(80, 80),
        PortRange(443, 443),
        PortRange(1024, 65535),
    )
    redirect_queues: QueuePatterns = ()
    fetch_retry_delays: Delays = (2, 10, 60, 300, 1800)
    retry_delays: Delays = (1, 5, 30, 120, 600, 900, 900, 900)

    # Postbacks.
    postback_secret_key: SecretStr = SecretStr(PUBLISHED_POSTBACK_SECRET)
    postback_signing_secret: SigningSecrets = None
    postback_https_only: bool = False
    postback_timeout: Positive = 15.0
    notify_max_per_host: Annotated[int, Field(ge=1)] = 4
    postback_retry_delays: Delays = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)

    # MongoDB.
    mongo_url: MongoUrl = None
    mongo_url_develop: MongoUrl = None
    mongo_url_production: MongoUrl = None
    db_environment: Annotated[Literal["DEVELOP", "PRODUCTION"], BeforeValidator(str.upper)] = Field(
        default="DEVELOP", validation_alias=AliasChoices("db_environment", "environment")
    )
    sweep_channels_cron: Cron = "0 1 * * *"
    sweep_episodes_cron: Cron = "0 1 * * *"
    sweep_max_backlog: Annotated[int, Field(ge=1)] = 1000
    claim_seconds: Annotated[int, Field(ge=60)] = 21_600
    recheck_days: Annotated[int, Field(ge=0, le=365)] = 0
    recheck_full_days: Annotated[int, Field(ge=1, le=3650)] = 30
    recheck_cron: Cron = "30 2 * * *"

    # Monitoring.
    jobs_mongo_url: MongoUrl = None
    keep_results_days: Annotated[int, Field(ge=0, le=365)] = 0
    otel_exporter_otlp_endpoint: HttpUrl = None
    otel_exporter_otlp_traces_endpoint: HttpUrl = None
    log_format: Annotated[Literal["text", "json"], BeforeValidator(str.lower)] = "text"
    # Each process serves metrics and health on the first free port from METRICS_PORT upwards; 0 turns this off.
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9191
    metrics_host: IPvAnyAddress = ipaddress.IPv4Address("127.0.0.1")

    # The dashboard.
    dashboard_token: Token = None

    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(str.upper)] = "DEBUG"

    @model_validator(mode="after")
    def _keys_come_in_pairs(self) -> Settings:
        for service in ("s3", "sqs"):
            names = (f"aws_access_key_{service}", f"aws_secret_key_{service}")
            given = [name.upper() for name in names if getattr(self, name)]
            if len(given) == 1:
                raise ValueError(f"{given[0]} is set alone: {names[0].upper()} and {names[1].upper()} belong together")
        return self

    @model_validator(mode="after")
    def _staging_is_a_place_of_its_own(self) -> Settings:
        """Refuse a staging folder that contains other objects, because objects in staging expire."""
        parts = urlsplit(self.staging)
        path = parts.path.strip("/")
        if parts.scheme == "file":
            good = bool(path) and not parts.netloc
        else:
            ours, public = f"{path}/", f"{self.s3_prefix}/"
            overlaps = parts.netloc == self.s3_bucket and (ours.startswith(public) or public.startswith(ours))
            has_names = all(part.strip(".") for part in path.split("/"))
            good = bool(parts.netloc) and has_names and not overlaps
        if not good:
            raise ValueError(
                f"STAGING_URL={self.staging!r}: objects there expire, so it must be a folder or a prefix of its "
                "own, such as file:///var/staging/ or s3://bucket/pipeline-staging/"
            )
        return self

    @property
    def recipe(self) -> Recipe:
        """The recipe of new renditions."""
        return Recipe(self.renditions, self.resize_fit, self.output_formats)

    @property
    def input_queue_name(self) -> str | None:
        """The name of the input queue, or None if QUEUE_URL is not set."""
        return self.queue_url.rsplit("/", 1)[-1] if self.queue_url else None

    def full_queue_name(self, queue: str) -> str:
        """Return the name in SQS of one of the service's queues."""
        return f"{self.queue_namespace}_{queue}"

    @property
    def job_keys(self) -> tuple[str, ...]:
        """The keys of JOB_KEY: the first signs jobs, all verify them; `none` accepts jobs without a proof."""
        return tuple(self.job_key.get_secret_value().split()) if self.job_key else ()

    @property
    def staging(self) -> str:
        """The URL of staging, where bytes wait between stages. It ends in a slash."""
        return (self.staging_url or f"s3://{self.s3_bucket}/pipeline-staging/").rstrip("/") + "/"

    @property
    def public_url_base(self) -> str:
        """The part of an object's public URL before its key, without a slash at the end (contract, section 4)."""
        if self.public_base_url:
            return self.public_base_url.rstrip("/")
        endpoint = self.aws_endpoint_url_s3 or self.aws_endpoint_url or f"https://s3.{self.region_of_s3}.amazonaws.com"
        return f"{endpoint.rstrip('/')}/{self.s3_bucket}"

    @property
    def fetch_networks(self) -> tuple[Network, ...]:
        """The networks that fetch may reach though not public."""
        return self.allowed_networks + self.fetch_allowed_networks

    @property
    def postback_networks(self) -> tuple[Network, ...]:
        """The networks that postbacks may reach though not public."""
        return self.allowed_networks + self.postback_allowed_networks

    @property
    def signing_secrets(self) -> tuple[str, ...]:
        """The secrets of POSTBACK_SIGNING_SECRET. Postbacks carry a signature by each."""
        return tuple(self.postback_signing_secret.get_secret_value().split()) if self.postback_signing_secret else ()

    @property
    def shared_secret(self) -> str | None:
        """The secret that postbacks contain, or None if they contain none."""
        secret = self.postback_secret_key.get_secret_value()
        return None if secret == NO_SECRET else secret

    @property
    def sqs_endpoint(self) -> str | None:
        """The endpoint of SQS, or None for that of AWS."""
        return self.aws_endpoint_url_sqs or self.aws_endpoint_url

    @property
    def s3_endpoint(self) -> str | None:
        """The endpoint of S3, or None for that of AWS."""
        return self.aws_endpoint_url_s3 or self.aws_endpoint_url

    @property
    def region_of_s3(self) -> str:
        """The region of the bucket, which requests to S3 are signed for."""
        return self.s3_region or self.aws_region

    @cached_property
    def own_queues(self) -> frozenset[str]:
        """The full names of all queues of the service, including the input queue."""
        own = {self.full_queue_name(queue) for queue in own_queues()}
        return frozenset(own | ({self.input_queue_name} if self.input_queue_name else set()))

    @property
    def traces_endpoint(self) -> str | None:
        """The URL that traces are sent to, or None if tracing is off.

        https://opentelemetry.io/docs/specs/otel/protocol/exporter/
        """
        base = self.otel_exporter_otlp_endpoint
        return self.otel_exporter_otlp_traces_endpoint or (f"{base.rstrip('/')}/v1/traces" if base else None)

    @property
    def database_url(self) -> SecretStr | None:
        """The URL of the database for sweeps, or None if sweeps are off."""
        by_environment = {"DEVELOP": self.mongo_url_develop, "PRODUCTION": self.mongo_url_production}
        return self.mongo_url or by_environment[self.db_environment]


#: Sentences for the mistakes that pydantic finds, by its names for them.
#: https://docs.pydantic.dev/latest/errors/validation_errors/
_ACCEPTED = {
    "int_parsing": "it must be a whole number, in digits alone",
    "float_parsing": "it must be a number, without a unit",
    "bool_parsing": "it must be on or off",
    "greater_than": "it must be more than {gt:g}",
    "greater_than_equal": "it must be at least {ge:g}",
    "less_than_equal": "it must be at most {le:g}",
    "literal_error": "it must be {expected}",
    "string_pattern_mismatch": "it must match the regular expression {pattern}",
    "ip_any_address": "it must be an IP address, such as 127.0.0.1",
}


def _sentence(mistake: Any) -> str:
    """Describe a mistake in a sentence, such as `RESIZE_FIT='crop': it must be 'cover' or 'fill'`."""
    text = _ACCEPTED.get(mistake["type"])
    message = text.format(**mistake.get("ctx", {})) if text else mistake["msg"].removeprefix("Value error, ")
    if not mistake["loc"]:  # it concerns several variables, and names them
        return f"{message}."
    name = str(mistake["loc"][0])
    field = Settings.model_fields.get(name)
    if field and isinstance(field.validation_alias, AliasChoices):  # use the spelling that was set
        aliases = map(str, field.validation_alias.choices)
        name = next((alias for alias in aliases if alias.upper() in environment()), name)
    value = str(mistake["input"])
    is_secret = (field and "SecretStr" in str(field.annotation)) or re.search("[:/].*@", value)  # a URL with a password
    shown = "" if is_secret else f"={value!r}"
    return f"{name.upper()}{shown}: {message.rstrip('?')}{'?' if message.endswith('?') else '.'}"


def environment() -> dict[str, str]:
    """Return the variables of the environment that are not empty, by their names in upper case."""
    return {name.upper(): value for name, value in os.environ.items() if value}


@lru_cache
def get_settings() -> Settings:
    """Return the settings of this process, read once from the environment.

    Raises:
        SettingsError: a variable has an invalid value.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError(*map(_sentence, error.errors())) from None


def settings_or_exit() -> Settings:
    """Return the settings; if they are wrong, exit from dramatiq or periodiq with one sentence.

    Raises:
        SettingsError: a variable has an invalid value, and the running program is another.
    """
    try:
        return get_settings()
    except SettingsError as error:
        if Path(sys.argv[0]).name in {"dramatiq", "periodiq"}:
            sys.exit(f"error: {error}")
        raise
