"""The settings: where they come from, and what is said of bad ones."""

from __future__ import annotations

import traceback
from dataclasses import FrozenInstanceError, fields
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import requests

from ninja_tasks.config import API_PATH, SETTINGS, RateLimit, Setting, Settings, load_settings
from ninja_tasks.delivery.state import connect
from ninja_tasks.errors import ConfigurationError

BROKER = "redis://broker.example:6379/0"
SECRET = "geheim-4711"
DSN = f"https://{SECRET}@sentry.example/17"
ONE, TWO = "https://one@sentry.example/1", "http://two:old@sentry.example:9000/a/path/2"


class Sample(NamedTuple):
    """What a setting is without a value, and three forms of two other values."""

    default: Any
    text: str
    from_text: Any
    native: Any
    from_native: Any


SAMPLES = {
    "api_url": Sample(
        "https://api.sales-ninja.me",
        "http://one.example:8080/",
        "http://one.example:8080",
        "https://two.example",
        "https://two.example",
    ),
    "redis_url": Sample(
        BROKER,
        "redis://one.example/1",
        "redis://one.example/1",
        "unix:///two.sock",
        "unix:///two.sock",
    ),
    "rate_limit": Sample(
        RateLimit(50, 1), "600/m", RateLimit(600, 60), "9000/h", RateLimit(9000, 3600)
    ),
    "connect_timeout_seconds": Sample(3.05, "1.5", 1.5, 2, 2.0),
    "read_timeout_seconds": Sample(27.0, "1.5", 1.5, 2, 2.0),
    "publish_timeout_seconds": Sample(5.0, "1.5", 1.5, 2, 2.0),
    "max_attempts": Sample(16, "3", 3, 4, 4),
    "max_age_seconds": Sample(604800.0, "60", 60.0, 90.5, 90.5),
    "on_unknown": Sample("retry", "dead_letter", "dead_letter", "retry", "retry"),
    "breaker_threshold": Sample(5, "3", 3, 4, 4),
    "breaker_cooldown_seconds": Sample(5.0, "1.5", 1.5, 2, 2.0),
    "ledger_ttl_seconds": Sample(604800, "60", 60, 90, 90),
    "sentry_dsn": Sample(None, "https://a@one.example/1", "https://a@one.example/1", DSN, DSN),
    "trust_env": Sample(False, "true", True, False, False),
    "key_prefix": Sample("ninja:", "one:", "one:", "two:", "two:"),
    "concurrency": Sample(None, "3", 3, 4, 4),
    "transport": Sample("crash-safe", "stock", "stock", "crash-safe", "crash-safe"),
    "strict": Sample(False, "true", True, False, False),
    "liveness_file": Sample(None, "one.alive", "one.alive", "two.alive", "two.alive"),
}

TIMEOUTS = ("0.009", "601", "1e300")
BAD_TEXTS = {
    "api_url": [
        *("api.example", "ftp://api.example", "https://", "https:///goal", "https://[::1"),
        *("https://api..example", "https://.api", "https://-api.example", "https://api-.example"),
        *("https://" + "a" * 64 + ".example", "https://" + "a." * 130 + "example"),
        *("https://1.2.3", "https://256.1.1.1", "https://0x7f.1", "https://[::g]", "https://[1.2]"),
        *("https://api.example:0", "https://api.example:65536"),
    ],
    "redis_url": ["localhost:6379", "http://localhost", "amqp://localhost", "redis"],
    "rate_limit": ["50", "50/d", "0/s", "-1/s", "1.5/s", "50 / s", "fast", "None", "²/s"],
    "connect_timeout_seconds": [
        "0.009",
        "601",
        "1e300",
        "0",
        "-1",
        "soon",
        "nan",
        "inf",
        "-inf",
        "3,05",
        "3s",
    ],
    "read_timeout_seconds": [
        "0.009",
        "601",
        "1e300",
        "0",
        "-1",
        "soon",
        "nan",
        "inf",
        "-inf",
        "27,0",
        "27s",
    ],
    "publish_timeout_seconds": [
        "0.009",
        "601",
        "1e300",
        "0",
        "-1",
        "soon",
        "nan",
        "inf",
        "-inf",
        "5,0",
        "5s",
    ],
    "max_attempts": ["1000001", "9" * 5000, "0", "-1", "1.5", "many", "²", "1e3", "+3", "0x10"],
    "max_age_seconds": ["0.9", "1e9", "0", "-1", "week", "nan", "inf", "7d"],
    "on_unknown": ["give_up", "RETRY", "dead letter"],
    "breaker_threshold": ["1000001", "0", "-1", "1.5", "many"],
    "concurrency": ["1000001", "0", "-1", "1.5", "all"],
    "breaker_cooldown_seconds": ["0.001", "3601", "0", "-1", "soon", "nan", "inf"],
    "ledger_ttl_seconds": ["315360001", "9" * 19, "0", "-1", "1.5", "week", "inf"],
    "sentry_dsn": [],
    "trust_env": ["maybe", "2", "truee"],
    "key_prefix": ["two words:", "line\n", "{}:", "{open:", "x" * 65],
    "transport": ["Stock", "redis"],
    "strict": ["maybe"],
    "liveness_file": [],
}
BAD_NATIVES: dict[str, list[Any]] = {
    "api_url": [17, "", b"https://api.example", ["https://api.example"]],
    "redis_url": [17, "", b"redis://localhost", ["redis://localhost"]],
    "rate_limit": [50, "", b"50/s", ["50/s"], True],
    "connect_timeout_seconds": [0, -1.5, True, "", [3], float("nan"), float("inf")],
    "read_timeout_seconds": [0, -1.5, True, "", [3], float("nan"), float("inf")],
    "publish_timeout_seconds": [0, -1.5, True, "", [3], float("nan"), float("inf")],
    "max_attempts": [0, -1, 1.5, True, "", [3]],
    "max_age_seconds": [0, -1.5, True, "", [3]],
    "on_unknown": ["", 1, True, ["retry"], {}],
    "breaker_threshold": [0, -1, 1.5, True, "", [3]],
    "concurrency": [0, -1, 1.5, True, [3]],
    "breaker_cooldown_seconds": [0, -1.5, True, "", [3]],
    "ledger_ttl_seconds": [0, -1, 1.5, True, "", [3]],
    "sentry_dsn": [17, ["https://a@one.example/1"]],
    "trust_env": ["", 2, [], {}],
    "key_prefix": [17, b"one:", ""],
    "transport": [1, ["stock"]],
    "strict": ["", 2],
    "liveness_file": [17],
}

every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)


def sample_of(setting: Setting) -> Sample:
    assert setting.name in SAMPLES, f"add samples of the setting {setting.name} to SAMPLES"
    return SAMPLES[setting.name]


def value_of(
    setting: Setting,
    configuration: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
) -> Any:
    settings = load_settings(configuration or {}, environment or {}, BROKER)
    return getattr(settings, setting.name)


def pairs(values: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(setting, value, id=f"{setting.name}-{value!r}")
        for setting in SETTINGS
        for value in values[setting.name]
    ]


def refusal(
    configuration: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    broker_url: str | None = BROKER,
) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(configuration or {}, environment or {}, broker_url)
    return caught.value


# Sources


def test_every_setting_is_a_field_of_the_settings() -> None:
    assert [setting.name for setting in SETTINGS] == [field.name for field in fields(Settings)]


@every_setting
def test_a_setting_is_called_ninja_in_both_sources(setting: Setting) -> None:
    assert setting.configuration_key == f"ninja_{setting.name}"
    assert setting.environment_variable == f"NINJA_{setting.name}".upper()


def test_no_rate_limit_is_said_in_words() -> None:
    assert load_settings({"ninja_rate_limit": "none"}, {}, BROKER).rate_limit is None


@every_setting
def test_a_setting_without_a_value_has_its_default(setting: Setting) -> None:
    assert value_of(setting) == sample_of(setting).default


@every_setting
def test_the_environment_wins_over_the_default(setting: Setting) -> None:
    sample = sample_of(setting)
    value = value_of(setting, environment={setting.environment_variable: sample.text})
    assert (value, type(value)) == (sample.from_text, type(sample.from_text))
    assert value != sample.default


@every_setting
def test_the_configuration_wins_over_the_environment(setting: Setting) -> None:
    sample = sample_of(setting)
    value = value_of(
        setting,
        {setting.configuration_key: sample.native},
        {setting.environment_variable: sample.text},
    )
    assert (value, type(value)) == (sample.from_native, type(sample.from_native))
    assert value != sample.from_text


@every_setting
def test_the_configuration_may_hold_what_the_environment_holds(setting: Setting) -> None:
    sample = sample_of(setting)
    assert value_of(setting, {setting.configuration_key: sample.text}) == sample.from_text


@every_setting
def test_an_empty_environment_variable_is_unset(setting: Setting) -> None:
    empty = {setting.environment_variable: ""}
    assert value_of(setting, environment=empty) == sample_of(setting).default


@every_setting
def test_none_in_the_configuration_is_unset(setting: Setting) -> None:
    sample = sample_of(setting)
    value = value_of(
        setting, {setting.configuration_key: None}, {setting.environment_variable: sample.text}
    )
    assert value == sample.from_text


@pytest.mark.parametrize("text", ["1", "true", "True", "YES", "on"])
def test_what_means_yes_is_true(text: str) -> None:
    assert load_settings({}, {"NINJA_TRUST_ENV": text}, BROKER).trust_env is True


@pytest.mark.parametrize("text", ["0", "false", "False", "NO", "off"])
def test_what_means_no_is_false(text: str) -> None:
    assert load_settings({}, {"NINJA_TRUST_ENV": text}, BROKER).trust_env is False


def test_settings_cannot_be_changed() -> None:
    settings = load_settings({}, {}, BROKER)
    with pytest.raises(FrozenInstanceError):
        settings.max_attempts = 1  # type: ignore[misc]


# Bad values


@pytest.mark.parametrize(("setting", "text"), pairs(BAD_TEXTS))
def test_a_bad_environment_variable_is_named_with_a_remedy(setting: Setting, text: str) -> None:
    error = refusal(environment={setting.environment_variable: text})
    assert str(error).startswith(f"{setting.environment_variable} must be ")


@pytest.mark.parametrize(("setting", "value"), pairs(BAD_NATIVES) + pairs(BAD_TEXTS))
def test_a_bad_value_in_the_configuration_is_named_with_a_remedy(
    setting: Setting, value: Any
) -> None:
    error = refusal({setting.configuration_key: value})
    assert str(error).startswith(f"{setting.configuration_key} must be ")


def test_a_bad_value_that_is_not_used_is_not_spoken_of() -> None:
    environment = {"NINJA_MAX_ATTEMPTS": "many"}
    assert load_settings({"ninja_max_attempts": 3}, environment, BROKER).max_attempts == 3


@pytest.mark.parametrize("path", ["/outer", "/outer/v1.0/goal/reach", "?a=b", "#a"])
def test_a_base_url_with_a_path_is_told_that_the_path_is_fixed(path: str) -> None:
    error = refusal({"ninja_api_url": f"https://api.example{path}"})
    assert "without a path, which is fixed" in str(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("api_url", SECRET),
        ("api_url", f"ftp://user:{SECRET}@api.example"),
        ("api_url", f"https://user:{SECRET}@api.example/path"),
        ("api_url", f"https://user:{SECRET}@ex\u2100mple.com"),
        ("api_url", f"https://user:{SECRET}@[::1"),
        ("redis_url", SECRET),
        ("redis_url", f"http://:{SECRET}@localhost"),
        *[
            (setting.name, SECRET)
            for setting in SETTINGS
            if setting.name.endswith(("_seconds", "_attempts", "_unknown", "_env"))
        ],
    ],
)
def test_a_refusal_never_repeats_the_value(name: str, value: str) -> None:
    for error in (
        refusal({f"ninja_{name}": value}),
        refusal(environment={f"NINJA_{name.upper()}": value}),
    ):
        assert SECRET not in "".join(traceback.format_exception(error))


# The environment that requests obey


PROXIES = [
    *("proxy.example:3128", "localhost:3128", "//proxy:3128", "http://", "ftp://proxy:3128"),
    *("http://proxy:99999", "http://a..b:3128", "http://[::1", f"http://user:{SECRET}@:3128"),
    "socks5://127.0.0.1:1080",
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("HTTPS_PROXY", value) for value in PROXIES],
        *[(name, PROXIES[0]) for name in ("https_proxy", "ALL_PROXY", "all_proxy")],
        *[(name, "/nowhere/ca.pem") for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")],
    ],
)
def test_an_environment_that_requests_cannot_obey_is_refused_where_they_obey_it(
    name: str, value: str
) -> None:
    error = refusal({"ninja_trust_env": True}, {name: value})
    assert str(error).startswith(f"{name} ")
    assert "ninja_trust_env" in str(error)
    assert SECRET not in "".join(traceback.format_exception(error))
    assert load_settings({}, {name: value}, BROKER)
    other = {"http_proxy": "http://proxy:3128", name: value}
    plain = {"ninja_trust_env": True, "ninja_api_url": "http://127.0.0.1:8080"}
    assert load_settings(plain, other, BROKER)


@pytest.mark.parametrize(
    "environment",
    [
        {"HTTPS_PROXY": "http://user:p%40ss@proxy_1.example:3128/"},
        {"https_proxy": "https://[::1]:3128"},
        {"HTTPS_PROXY": "proxy:3128", "NO_PROXY": "localhost,.sales-ninja.me"},
        {"HTTPS_PROXY": "http://proxy:3128", "ALL_PROXY": "proxy:3128"},
        {"HTTP_PROXY": "proxy:3128"},
        {"REQUESTS_CA_BUNDLE": __file__, "CURL_CA_BUNDLE": "/nowhere/ca.pem"},
        {"HTTPS_PROXY": "", "REQUESTS_CA_BUNDLE": ""},
    ],
    ids=str,
)
def test_an_environment_that_requests_can_obey_is_accepted(environment: dict[str, str]) -> None:
    assert load_settings({"ninja_trust_env": True}, environment, BROKER).trust_env


# Values that pass


def accepted(name: str, value: str) -> Settings | None:
    try:
        return load_settings({f"ninja_{name}": value}, {}, BROKER)
    except ConfigurationError:
        return None


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example",
        "https://api.example/",
        "http://127.0.0.1:8080",
        "http://[::1]:8080",
        "https://api.example:99999",
        "https://api.example:port",
        "https://api.example\n",
        " https://api.example",
        "https://api .example",
        "https://*.example",
        "https://api.example?",
        "https://api.example#",
    ],
)
def test_an_api_url_is_refused_or_can_be_posted_to(url: str) -> None:
    if settings := accepted("api_url", url):
        prepared = requests.Request("POST", settings.api_url + API_PATH).prepare()
        parts = urlsplit(str(prepared.url))
        assert (parts.path, parts.query, parts.fragment) == (API_PATH, "", "")


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/0",
        "redis://localhost:99999/0",
        "redis://localhost:port/0",
        "redis://:with/slash@localhost:6379/0",
        "redis://:with#hash@localhost:6379/0",
        "redis://[::1",
        "redis://localhost/0?db=zero",
        "redis://localhost/0?unheard=of",
    ],
)
def test_a_redis_url_is_refused_or_can_be_connected_to(url: str) -> None:
    if settings := accepted("redis_url", url):
        assert connect(settings).connection_pool.make_connection()


# The state's Redis


@pytest.mark.parametrize(
    "broker_url",
    [
        "redis://localhost:6379/0",
        "redis://user:password@localhost:6379/3",
        "rediss://localhost:6379/0?ssl_cert_reqs=required",
        "unix:///run/redis.sock",
    ],
)
def test_a_redis_broker_holds_the_state_by_default(broker_url: str) -> None:
    assert load_settings({}, {}, broker_url).redis_url == broker_url


def test_a_socket_in_kombus_spelling_is_read_in_that_of_redis() -> None:
    settings = load_settings({}, {}, "redis+socket:///run/redis.sock")
    assert settings.redis_url == "unix:///run/redis.sock"


@pytest.mark.parametrize(
    ("broker_url", "place"),
    [
        ("redis://localhost:6380/3", {"host": "localhost", "port": 6380, "db": 3}),
        ("redis://u:p%2Fw@localhost/1", {"username": "u", "password": "p/w", "db": 1}),
        ("rediss://localhost/3?ssl_cert_reqs=required", {"host": "localhost", "db": 3}),
        ("rediss://localhost/3?ssl_cert_reqs=CERT_REQUIRED", {"host": "localhost", "db": 3}),
        ("redis+socket:///run/redis.sock", {"path": "/run/redis.sock"}),
        ("redis+socket:///run/redis.sock?virtual_host=3", {"path": "/run/redis.sock", "db": 3}),
        ("redis://one.example/3;redis://two.example/3", {"host": "one.example", "db": 3}),
    ],
)
def test_the_state_is_reached_at_the_place_that_celery_reads_in_the_url(
    broker_url: str, place: dict[str, Any]
) -> None:
    pool = connect(load_settings({}, {}, broker_url)).connection_pool
    assert pool.make_connection()
    assert place.items() <= pool.connection_kwargs.items()


@pytest.mark.parametrize(
    "broker_url",
    [None, "", "amqp://guest@localhost//", "memory://", "sqs://", "sentinel://localhost"],
)
def test_beside_another_broker_redis_url_is_required(broker_url: str | None) -> None:
    text = str(refusal(broker_url=broker_url))
    assert "ninja_redis_url is not set" in text
    assert "NINJA_REDIS_URL=redis://" in text


def test_redis_url_may_differ_from_the_broker() -> None:
    settings = load_settings({"ninja_redis_url": "redis://state.example"}, {}, BROKER)
    assert settings.redis_url == "redis://state.example"


def test_beside_another_broker_redis_url_can_be_given() -> None:
    environment = {"NINJA_REDIS_URL": "redis://state.example"}
    settings = load_settings({}, environment, "amqp://guest@localhost//")
    assert settings.redis_url == "redis://state.example"


# Sentry


@pytest.mark.parametrize(
    ("configuration", "environment", "dsn"),
    [
        ({}, {}, None),
        ({}, {"SENTRY_DSN": ONE}, ONE),
        ({}, {"SENTRY_DSN": ""}, None),
        ({}, {"SENTRY_DSN": ONE, "NINJA_SENTRY_DSN": TWO}, TWO),
        ({}, {"SENTRY_DSN": ONE, "NINJA_SENTRY_DSN": ""}, ONE),
        ({"ninja_sentry_dsn": DSN}, {"SENTRY_DSN": ONE, "NINJA_SENTRY_DSN": TWO}, DSN),
        ({"ninja_sentry_dsn": DSN}, {"SENTRY_DSN": "none"}, DSN),
    ],
)
def test_the_usual_sentry_dsn_stands_in_for_one_of_our_own(
    configuration: dict[str, str], environment: dict[str, str], dsn: str | None
) -> None:
    assert load_settings(configuration, environment, BROKER).sentry_dsn == dsn


# Secrets


@pytest.mark.parametrize(
    "configuration",
    [
        {"ninja_sentry_dsn": DSN},
        {"ninja_redis_url": f"redis://:{SECRET}@localhost/0"},
        {"ninja_redis_url": f"redis://localhost/0?password={SECRET}"},
    ],
)
def test_the_representation_shows_neither_a_dsn_nor_a_password(
    configuration: dict[str, str],
) -> None:
    settings = load_settings(configuration, {}, BROKER)
    assert SECRET in f"{settings.redis_url} {settings.sentry_dsn}"
    assert SECRET not in f"{settings} {settings!r}"


def test_the_representation_shows_no_password_of_the_broker() -> None:
    assert SECRET not in repr(load_settings({}, {}, f"redis://:{SECRET}@localhost/0"))


def test_a_password_in_the_api_url_is_refused_or_not_shown() -> None:
    assert SECRET not in repr(accepted("api_url", f"https://user:{SECRET}@api.example"))


def test_the_representation_shows_what_is_no_secret() -> None:
    assert "max_attempts=16" in repr(load_settings({}, {}, BROKER))
