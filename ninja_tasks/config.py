"""The settings: their names, defaults, meanings, and the one place where they are read.

A setting is taken from the Celery configuration (``ninja_<name>``), else from the environment
(``NINJA_<NAME>``), else from its default. The result is a frozen object.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .addresses import base_url, environment_fault
from .errors import ConfigurationError

__all__ = [
    "API_PATH",
    "ON_UNKNOWN",
    "SETTINGS",
    "RateLimit",
    "Setting",
    "Settings",
    "broker_url_of",
    "first_of",
    "load_settings",
    "publish_timeout_seconds",
    "settings_of",
]

API_PATH = "/outer/v1.0/goal/reach"

#: The legal values of ``on_unknown``.
ON_UNKNOWN = ("retry", "dead_letter")
TRANSPORTS = ("crash-safe", "stock")

_REDIS_URL_HELP = (
    'must be a Redis URL such as "redis://localhost:6379/0", '
    "with special characters of a password percent-encoded"
)
_SPELLINGS = {
    "redis+socket://": "unix://",
    "virtual_host=": "db=",
    "ssl_cert_reqs=CERT_REQUIRED": "ssl_cert_reqs=required",
    "ssl_cert_reqs=CERT_OPTIONAL": "ssl_cert_reqs=optional",
    "ssl_cert_reqs=CERT_NONE": "ssl_cert_reqs=none",
}
_REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+socket")
_RATE = re.compile(r"(?P<goals>[0-9]{1,9})/(?P<unit>[smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
#: In seconds. Below, no network answers; above, what a worker holds is taken for lost.
_SHORTEST_TIMEOUT, _LONGEST_TIMEOUT = 0.01, 600
_TEN_YEARS = 315_360_000
_LONGEST_PREFIX = 64
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How many goals all workers together may send.

    Attributes:
        goals: how many,
        seconds: in this time.
    """

    goals: int
    seconds: int

    @property
    def interval_milliseconds(self) -> float:
        """The time between two goals."""
        return self.seconds * 1000 / self.goals

    @property
    def burst(self) -> int:
        """By how many goals a second may exceed the limit: those of a tenth of a second.

        None goes early; it is left for goals that are late to their slot.
        """
        return max(1, self.goals // (10 * self.seconds))


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one application, checked; :data:`SETTINGS` explains each of them.

    ``repr`` leaves out the values that can hold a password.
    """

    api_url: str
    redis_url: str = field(repr=False)
    rate_limit: RateLimit | None
    concurrency: int | None
    connect_timeout_seconds: float
    read_timeout_seconds: float
    publish_timeout_seconds: float
    max_attempts: int
    max_age_seconds: float
    on_unknown: str
    breaker_threshold: int
    breaker_cooldown_seconds: float
    ledger_ttl_seconds: int
    sentry_dsn: str | None = field(repr=False)
    trust_env: bool
    key_prefix: str
    transport: str
    strict: bool
    liveness_file: str | None


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: how it is called and read, and what it does.

    Attributes:
        name: without prefix, as in ``Settings``.
        default: used when neither the configuration nor the environment has a value.
        parse: turns a value of either source into the checked one; raises ``ValueError`` with
            what the value must be.
        meaning: one sentence for ``--help`` and the documentation.
    """

    name: str
    default: Any
    parse: Callable[[Any], Any]
    meaning: str

    @property
    def configuration_key(self) -> str:
        return f"ninja_{self.name}"

    @property
    def environment_variable(self) -> str:
        return f"NINJA_{self.name.upper()}"


def _http_url(value: Any) -> str:
    url = base_url(value) if isinstance(value, str) else None
    if url is None:
        raise ValueError(
            'must be a base URL such as "https://api.sales-ninja.me": with a host that can exist, '
            "without a path, which is fixed, and without user, query and fragment"
        )
    return url


def _redis_url(value: Any) -> str:
    if not isinstance(value, str) or not _is_redis(value):
        raise ValueError(_REDIS_URL_HELP)
    url = _in_the_spelling_of_redis(value)
    # A producer has no use for the client, so it is loaded here.
    from redis import ConnectionPool, RedisError

    try:
        ConnectionPool.from_url(url).make_connection()
    except (ValueError, TypeError, AttributeError, RedisError):
        raise ValueError(_REDIS_URL_HELP) from None
    return url


def _in_the_spelling_of_redis(url: str) -> str:
    """Write a broker URL as the Redis client does: kombu has names of its own for some parts."""
    first_of_several = url.partition(";")[0]
    for kombus, redis in _SPELLINGS.items():
        first_of_several = first_of_several.replace(kombus, redis)
    return first_of_several


def _is_redis(url: str) -> bool:
    return url.partition("://")[0] in _REDIS_SCHEMES


def _rate_limit(value: Any) -> RateLimit | None:
    if value == "none":
        return None
    matched = _RATE.fullmatch(value) if isinstance(value, str) else None
    if matched is None or int(matched["goals"]) < 1:
        raise ValueError(
            'must be a number of goals per second, minute or hour such as "50/s", "600/m" or '
            '"9000/h", or "none"'
        )
    return RateLimit(int(matched["goals"]), _SECONDS[matched["unit"]])


def _seconds(lowest: float, highest: float) -> Callable[[Any], float]:
    """Return what reads a number of seconds between two bounds."""

    def read(value: Any) -> float:
        try:
            seconds = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            seconds = math.nan
        if not lowest <= seconds <= highest:
            raise ValueError(f"must be a number of seconds from {lowest:g} to {highest:.0f}")
        return seconds

    return read


def _whole(highest: int) -> Callable[[Any], int]:
    """Return what reads a whole number from 1."""

    def read(value: Any) -> int:
        text = "" if isinstance(value, bool) else str(value)
        is_whole = text.isascii() and text.isdigit() and len(text) <= len(str(highest))
        if not (is_whole and 1 <= int(text) <= highest):
            raise ValueError(f"must be a whole number from 1 to {highest}")
        return int(text)

    return read


def _on_unknown(value: Any) -> str:
    if value not in ON_UNKNOWN:
        raise ValueError('must be "retry" or "dead_letter"')
    return str(value)


def _transport(value: Any) -> str:
    if value not in TRANSPORTS:
        raise ValueError('must be "crash-safe" or "stock"')
    return str(value)


def _boolean(value: Any) -> bool:
    text = str(value).lower()
    if text not in (*_TRUE, *_FALSE):
        raise ValueError('must be "true" or "false"')
    return text in _TRUE


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return value


def _prefix(value: Any) -> str:
    text = _text(value)
    is_short = 0 < len(text) <= _LONGEST_PREFIX
    # Where Redis is a cluster, what stands in the first braces decides where a key lives.
    has_tag = "{" not in text or text.find("}", text.index("{")) > text.index("{") + 1
    if not (is_short and text.isprintable() and " " not in text and has_tag):
        raise ValueError(
            f"must be a string of 1 to {_LONGEST_PREFIX} letters without spaces, and with text in "
            'its braces if it has any, such as "ninja:"'
        )
    return text


#: Every setting, in the order in which the documentation shows them.
SETTINGS = (
    Setting(
        "api_url",
        "https://api.sales-ninja.me",
        _http_url,
        "Base URL of the Sales Ninja API; the path is fixed.",
    ),
    Setting(
        "redis_url",
        None,
        _redis_url,
        "Redis that holds all state but the queue; the broker's URL if that is Redis.",
    ),
    Setting(
        "rate_limit",
        "50/s",
        _rate_limit,
        "How many goals all workers together may send: N/s, N/m, N/h, or none.",
    ),
    Setting(
        "concurrency",
        None,
        _whole(1_000_000),
        "Goals that one worker sends at once; half of its slots where it serves other queues too.",
    ),
    Setting(
        "connect_timeout_seconds",
        3.05,
        _seconds(_SHORTEST_TIMEOUT, _LONGEST_TIMEOUT),
        "Longest wait for a connection to the API.",
    ),
    Setting(
        "read_timeout_seconds",
        27.0,
        _seconds(_SHORTEST_TIMEOUT, _LONGEST_TIMEOUT),
        "Longest silence of the API after the request was sent.",
    ),
    Setting(
        "publish_timeout_seconds",
        5.0,
        _seconds(_SHORTEST_TIMEOUT, _LONGEST_TIMEOUT),
        "How long enqueueing waits for a broker that does not answer.",
    ),
    Setting(
        "max_attempts",
        16,
        _whole(1_000_000),
        "Failed attempts after which a goal becomes a dead letter; a 429 does not count.",
    ),
    Setting(
        "max_age_seconds",
        604800.0,
        _seconds(1, _TEN_YEARS),
        "Age since enqueueing beyond which a goal is not sent any more but becomes a dead letter.",
    ),
    Setting(
        "on_unknown",
        "retry",
        _on_unknown,
        "What to do when a request may have been counted: retry, or dead_letter.",
    ),
    Setting(
        "breaker_threshold",
        5,
        _whole(1_000_000),
        "Failures in a row, of all workers, after which none of them sends goals for a while.",
    ),
    Setting(
        "breaker_cooldown_seconds",
        5.0,
        _seconds(_SHORTEST_TIMEOUT, 3600),
        "How long that is; then one goal is tried, and the time doubles, up to 60 seconds.",
    ),
    Setting(
        "ledger_ttl_seconds",
        604800,
        _whole(_TEN_YEARS),
        "How long a delivered goal is remembered.",
    ),
    Setting(
        "sentry_dsn",
        None,
        _text,
        "Sentry project that hears of dead letters; SENTRY_DSN is read too.",
    ),
    Setting(
        "trust_env",
        False,
        _boolean,
        "Whether requests to the API obey HTTPS_PROXY, NO_PROXY and REQUESTS_CA_BUNDLE.",
    ),
    Setting("key_prefix", "ninja:", _prefix, "Start of the name of every key in Redis."),
    Setting(
        "transport",
        "crash-safe",
        _transport,
        "How workers take goals from Redis: crash-safe, or stock for Celery's own way.",
    ),
    Setting(
        "strict",
        False,
        _boolean,
        "Whether a worker refuses to start where the check command finds a fault.",
    ),
    Setting(
        "liveness_file",
        None,
        _text,
        "File that a worker touches every two seconds while it is well, for health checks.",
    ),
)


def settings_of(app: Any) -> Settings:
    """Return the settings of a Celery application.

    Raises:
        ConfigurationError: if a setting cannot be used.
    """
    return load_settings(app.conf, os.environ, broker_url_of(app))


def broker_url_of(app: Any) -> str | None:
    """Return the address of an application's broker, the first one if it has several."""
    configuration = app.conf
    return first_of(
        configuration.broker_url or configuration.broker_read_url or configuration.broker_write_url
    )


def first_of(addresses: str | Sequence[str] | None) -> str | None:
    """Return the first of the addresses of a broker, which Celery takes as a list or a string."""
    if not isinstance(addresses, str):
        addresses = next(iter(addresses or ()), "")
    return addresses.partition(";")[0] or None


def publish_timeout_seconds(app: Any) -> float:
    """Return this one setting of a Celery application: who only enqueues may lack others.

    Raises:
        ConfigurationError: if it cannot be used.
    """
    (setting,) = (one for one in SETTINGS if one.name == "publish_timeout_seconds")
    return float(_read(setting, app.conf, os.environ, setting.default))


def load_settings(
    configuration: Mapping[str, Any],
    environment: Mapping[str, str],
    broker_url: str | None,
) -> Settings:
    """Merge the sources into checked settings.

    Args:
        configuration: a Celery application's configuration (``app.conf``).
        environment: ``os.environ``; an empty variable counts as unset.
        broker_url: the application's broker, the default of ``redis_url``.

    Raises:
        ConfigurationError: names the setting, where its value came from, and the remedy. It
            never repeats the value, which can be a secret.
    """
    values = {
        setting.name: _read(setting, configuration, environment, _default(setting, broker_url))
        for setting in SETTINGS
    }
    values["sentry_dsn"] = values["sentry_dsn"] or environment.get("SENTRY_DSN") or None
    if values["redis_url"] is None:
        raise ConfigurationError(
            "ninja_redis_url is not set and the broker is not Redis: say where the ledger and the "
            "dead letters live, for example NINJA_REDIS_URL=redis://localhost:6379/0"
        )
    settings = Settings(**values)
    if settings.trust_env and (fault := environment_fault(settings.api_url, environment)):
        raise ConfigurationError(f"{fault}; it is obeyed because ninja_trust_env is on")
    return settings


def _default(setting: Setting, broker_url: str | None) -> Any:
    if setting.name == "redis_url" and broker_url and _is_redis(broker_url):
        return broker_url
    return setting.default


def _read(
    setting: Setting,
    configuration: Mapping[str, Any],
    environment: Mapping[str, str],
    default: Any,
) -> Any:
    source, value = setting.configuration_key, configuration.get(setting.configuration_key)
    if value is None:
        source = setting.environment_variable
        value = environment.get(setting.environment_variable) or default
    if value is None:
        return None
    try:
        return setting.parse(value)
    except ValueError as error:
        raise ConfigurationError(f"{source} {error}") from None
