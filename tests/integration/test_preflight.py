"""The preflight on real servers: each thing that can be wrong is made wrong, and found."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import sentry_sdk
from celery import Celery
from click.testing import CliRunner, Result
from stack import Worker, clean_environment, free_port, wait_until
from tls import openssl

from ninja_tasks import ConfigurationError, install
from ninja_tasks import preflight as package
from ninja_tasks.cli import ninja
from ninja_tasks.config import settings_of
from ninja_tasks.delivery.gate import Gate
from ninja_tasks.delivery.state import connect
from ninja_tasks.preflight import Finding, preflight, report_at_start
from ninja_tasks.preflight import server as server_module
from ninja_tasks.preflight.finding import without_secrets
from ninja_tasks.preflight.rabbitmq import judge_undelivered
from ninja_tasks.preflight.server import RedisFacts, judge_server
from ninja_tasks.preflight.transport import judge_transport
from ninja_tasks.tested import NEWEST_KOMBU, is_kombu_tested
from ninja_tasks.testing import EmbeddedServer, FakeSalesNinja, embedded_server

SECRET = "geheim-4711"
DSN = f"https://{SECRET}@sentry.example/17"
STOCK = {"ninja_transport": "stock"}
STOCK_OPTIONS = {"broker_transport_options": {"visibility_timeout": 120}}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ.keys() - clean_environment().keys():
        monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with embedded_server(appendonly=True) as running:
        yield running


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url, decode_responses=True) as connected:
        yield connected


@pytest.fixture
def app(server: EmbeddedServer, fake_sales_ninja: FakeSalesNinja) -> Celery:
    """An application with nothing to find fault with."""
    return shop(server.url, ninja_api_url=fake_sales_ninja.url, ninja_sentry_dsn=DSN)


def shop(broker_url: str, **configuration: Any) -> Celery:
    made = install(Celery("shop", broker=broker_url, set_as_current=False))
    made.conf.update(configuration)
    return made


def findings(app: Celery) -> dict[str, Finding]:
    """Return the findings by name; each name must be there once."""
    found = preflight(app, ask_workers=False)
    by_name = {one.name: one for one in found}
    assert len(by_name) == len(found)
    for one in found:
        assert (one.remedy is None) == (one.level == "ok")
        assert SECRET not in f"{one}"
    return by_name


def troubles(app: Celery) -> dict[str, str]:
    """Return the levels of the findings that are not well, by name."""
    return {name: one.level for name, one in findings(app).items() if one.level != "ok"}


def check(app: Celery, *arguments: str) -> Result:
    return CliRunner().invoke(ninja, ["check", *arguments], obj=SimpleNamespace(app=app))


# A sound set-up


def test_in_a_sound_set_up_nothing_is_found_and_all_that_was_looked_at_is_named(
    app: Celery,
) -> None:
    assert troubles(app) == {}
    assert set(findings(app)) == {
        "api",
        "application",
        "broker",
        "broker.clock",
        "broker.connections",
        "broker.eviction",
        "broker.persistence",
        "broker.version",
        "sentry",
        "settings",
        "state",
        "transport",
    }


def test_it_changes_nothing_and_sends_nothing(
    app: Celery, client: redis.Redis, fake_sales_ninja: FakeSalesNinja
) -> None:
    preflight(app, ask_workers=False)
    assert client.keys() == []
    assert fake_sales_ninja.requests == []


def test_a_redis_for_state_of_its_own_is_looked_at_too(app: Celery) -> None:
    with embedded_server() as state:
        app.conf.ninja_redis_url = state.url
        assert troubles(app) == {"state.persistence": "warning"}
        assert f":{state.port}" in findings(app)["state.persistence"].message


def test_two_addresses_of_one_server_are_judged_once(app: Celery, server: EmbeddedServer) -> None:
    app.conf.ninja_redis_url = f"redis://localhost:{server.port}/1"
    assert "(broker and state)" in findings(app)["broker.eviction"].message
    assert "state.eviction" not in findings(app)


# Redis


def test_a_broker_that_is_away_is_a_fault(app: Celery, server: EmbeddedServer) -> None:
    server.stop()
    assert troubles(app) == {"broker": "fault", "state": "fault"}
    assert "Connection refused" in findings(app)["broker"].message


@pytest.mark.parametrize("place", ["broker", "state"])
def test_a_wrong_password_is_told_from_a_server_that_is_down(
    app: Celery, server: EmbeddedServer, client: redis.Redis, place: str
) -> None:
    client.config_set("requirepass", "another")
    try:
        wrong = server.url.replace("redis://", f"redis://:{SECRET}@")
        app.conf.update(broker_url=wrong, ninja_redis_url=wrong)
        found = findings(app)[place]
    finally:
        client.execute_command("AUTH", "another")
        client.config_set("requirepass", "")
    assert found.level == "fault"
    assert "refuses the user or the password" in found.message
    assert str(found.remedy).startswith("correct them in")
    assert SECRET not in f"{found}"


@pytest.mark.parametrize("address", [f"reddis://:{SECRET}@one/0", f"redis://one:{SECRET}/0"])
def test_an_address_that_cannot_be_used_is_told_from_a_server_that_is_down(
    app: Celery, server: EmbeddedServer, address: str
) -> None:
    app.conf.update(broker_url=address, ninja_redis_url=server.url)
    found = findings(app)["broker"]
    assert found.level == "fault"
    assert "has an address that cannot be used" in found.message
    assert "amqp://user:password@" in str(found.remedy)
    assert SECRET not in f"{found}"


def test_a_redis_for_state_that_is_away_is_a_fault(app: Celery) -> None:
    app.conf.ninja_redis_url = f"redis://:{SECRET}@127.0.0.1:{free_port()}/0"
    assert troubles(app) == {"state": "fault"}


def test_a_wrong_password_is_a_fault(app: Celery, client: redis.Redis) -> None:
    client.config_set("requirepass", "another")
    app.conf.broker_url = app.conf.broker_url.replace("//", f"//:{SECRET}@")
    assert troubles(app) == {"broker": "fault", "state": "fault"}


def test_a_scheme_that_kombu_does_not_know_is_a_fault(app: Celery) -> None:
    app.conf.ninja_redis_url = app.conf.broker_url
    app.conf.broker_url = f"carrier-pigeon://:{SECRET}@localhost"
    assert troubles(app) == {"broker": "fault"}


def test_a_silent_broker_is_a_fault_and_does_not_take_long(app: Celery) -> None:
    app.conf.ninja_redis_url = app.conf.broker_url
    with socket.create_server(("127.0.0.1", 0)) as silent:
        app.conf.broker_url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        started = time.monotonic()
        assert troubles(app) == {"broker": "fault"}
        assert time.monotonic() - started < 5


def test_eviction_within_a_bound_is_a_fault(app: Celery, client: redis.Redis) -> None:
    client.config_set("maxmemory", "100mb")
    assert troubles(app) == {}
    client.config_set("maxmemory-policy", "allkeys-lru")
    assert troubles(app) == {"broker.eviction": "fault"}
    assert "allkeys-lru" in findings(app)["broker.eviction"].message
    assert "noeviction" in str(findings(app)["broker.eviction"].remedy)


def test_eviction_without_a_bound_is_a_warning(app: Celery, client: redis.Redis) -> None:
    client.config_set("maxmemory-policy", "volatile-ttl")
    assert troubles(app) == {"broker.eviction": "warning"}


def test_no_append_only_file_is_a_warning(app: Celery, client: redis.Redis) -> None:
    client.config_set("appendonly", "no")
    assert troubles(app) == {"broker.persistence": "warning"}


@pytest.mark.parametrize(
    ("forbidden", "unknown"),
    [
        (["-config"], set()),
        (["-info"], {"broker.version", "state.version"}),
        (
            ["-info", "-config"],
            {
                f"{server}.{what}"
                for server in ("broker", "state")
                for what in ("version", "eviction", "persistence")
            },
        ),
    ],
)
def test_what_a_managed_service_does_not_tell_is_a_warning(
    app: Celery, client: redis.Redis, forbidden: list[str], unknown: set[str]
) -> None:
    client.execute_command(
        "ACL", "SETUSER", "shop", "on", f">{SECRET}", "~*", "&*", "+@all", *forbidden
    )
    app.conf.broker_url = app.conf.broker_url.replace("//", f"//shop:{SECRET}@")
    assert troubles(app) == dict.fromkeys(unknown, "warning")


def test_what_only_config_get_tells_is_judged_all_the_same(
    app: Celery, client: redis.Redis
) -> None:
    client.execute_command(
        "ACL", "SETUSER", "shop", "on", f">{SECRET}", "~*", "&*", "+@all", "-info"
    )
    app.conf.broker_url = app.conf.broker_url.replace("//", f"//shop:{SECRET}@")
    client.config_set("appendonly", "no")
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    found = troubles(app)
    assert (found["broker.eviction"], found["state.eviction"]) == ("fault", "fault")
    assert (found["broker.persistence"], found["state.persistence"]) == ("warning", "warning")


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("6.0.16", "fault"),
        ("5.0", "fault"),
        ("6.2.0", "ok"),
        ("7.2.4", "ok"),
        ("10.0", "ok"),
        (None, "warning"),
        ("unstable", "warning"),
    ],
)
def test_a_redis_without_blmove_is_a_fault(version: str | None, level: str) -> None:
    first, *_others = judge_server("broker", "redis://localhost", RedisFacts(version=version))
    assert (first.name, first.level) == ("broker.version", level)


@pytest.mark.parametrize(
    ("skew_seconds", "level", "told"),
    [
        (1.5, None, ""),
        (5, "warning", "5 s behind"),
        (-5, "warning", "5 s ahead of"),
        (90, "fault", "90 s behind"),
    ],
)
def test_a_clock_that_differs_is_found(
    app: Celery,
    monkeypatch: pytest.MonkeyPatch,
    skew_seconds: float,
    level: str | None,
    told: str,
) -> None:
    clock = SimpleNamespace(time=lambda: time.time() + skew_seconds)
    monkeypatch.setattr(server_module, "time", clock)
    assert troubles(app) == ({"broker.clock": level} if level else {})
    assert told in findings(app)["broker.clock"].message


# The transport


@pytest.mark.parametrize("seconds", [None, 2, 43_200, "7"])
def test_the_applications_visibility_timeout_does_not_matter_to_goals(
    app: Celery, seconds: Any
) -> None:
    app.conf.broker_transport_options = {"visibility_timeout": seconds} if seconds else {}
    found = findings(app)
    assert found["transport"].level == "ok"
    assert "visibility_timeout" not in found


@pytest.mark.parametrize(
    ("version", "is_tested"),
    [("5.4.2", True), ("5.7.9", True), ("5.8.0", False), ("6.0.0rc1", False), ("main", False)],
)
def test_a_kombu_that_is_newer_than_all_that_were_tested_is_a_warning_with_the_remedy(
    version: str, is_tested: bool
) -> None:
    (found, *_rest) = judge_transport(
        "crash-safe",
        "redis",
        {"visibility_timeout": 120},
        request_seconds=30,
        remote_control=True,
        kombu_is_tested=is_kombu_tested(version),
    )
    assert found.level == ("ok" if is_tested else "warning")
    assert is_tested or f"kombu=={NEWEST_KOMBU}.*" in found.remedy


def test_messages_that_0_1_0_holds_are_counted(app: Celery, client: redis.Redis) -> None:
    client.hset("ninja_tasks.unacked", mapping={"one": "x", "two": "y"})
    assert troubles(app) == {"broker.older": "warning"}
    assert (
        "2 messages are held by workers of version 0.1.0" in findings(app)["broker.older"].message
    )
    client.delete("ninja_tasks.unacked")
    client.set("ninja_tasks.unacked", "of another type")
    assert troubles(app) == {}


def test_a_pause_is_a_warning(app: Celery) -> None:
    Gate(settings_of(app), connect(settings_of(app))).pause()
    assert troubles(app) == {"delivery": "warning"}


@pytest.mark.parametrize(
    ("seconds", "level"),
    [
        (30, "fault"),
        (65, "fault"),
        (66, "ok"),
        (600, "ok"),
        (601, "warning"),
        (None, "warning"),
        ("900", "fault"),
    ],
)
def test_the_visibility_timeout_of_the_stock_transport_outlasts_a_request(
    app: Celery, seconds: Any, level: str
) -> None:
    app.conf.update(STOCK)
    app.conf.broker_transport_options = {"visibility_timeout": seconds}
    assert findings(app)["visibility_timeout"].level == level


def test_a_longer_request_needs_a_longer_visibility_timeout(app: Celery) -> None:
    app.conf.update(STOCK | STOCK_OPTIONS)
    assert findings(app)["visibility_timeout"].level == "ok"
    app.conf.ninja_read_timeout_seconds = 110
    assert findings(app)["visibility_timeout"].level == "fault"


def test_the_stock_transport_is_a_warning(app: Celery) -> None:
    app.conf.update(STOCK | STOCK_OPTIONS)
    assert troubles(app) == {"transport": "warning"}


def test_the_stock_transport_without_remote_control_is_a_fault(app: Celery) -> None:
    app.conf.worker_enable_remote_control = False
    assert troubles(app) == {}
    app.conf.update(STOCK | STOCK_OPTIONS)
    assert troubles(app) == {"transport": "warning", "remote_control": "fault"}


def test_a_broker_that_is_neither_redis_nor_rabbitmq_is_a_warning(app: Celery) -> None:
    app.conf.ninja_redis_url = app.conf.broker_url
    app.conf.broker_url = "memory://"
    assert troubles(app) == {"transport": "warning"}


@pytest.mark.parametrize(
    ("arguments", "version", "level"),
    [
        ({}, "4.0.1", "warning"),
        ({"x-queue-type": "classic", "x-delivery-limit": 5}, "4.0.1", "warning"),
        ({"x-queue-type": "quorum"}, "3.10.8", "warning"),
        ({"x-queue-type": "quorum"}, "", "warning"),
        ({"x-queue-type": "quorum"}, "4.0.1", "fault"),
        ({"x-queue-type": "quorum", "x-delivery-limit": 5}, "3.10.8", "fault"),
        ({"x-queue-type": "quorum", "x-delivery-limit": -1}, "4.0.1", "warning"),
    ],
)
def test_a_delivery_limit_without_a_dead_letter_exchange_is_a_fault(
    arguments: dict[str, Any], version: str, level: str
) -> None:
    assert judge_undelivered(arguments, version).level == level


# The API


class TlsServer:
    """Shakes hands with whoever comes, and keeps what they then say."""

    def __init__(self, certificate: Path) -> None:
        self.heard: list[bytes] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(connection, server_side=True) as secured:
                    self.heard.append(secured.recv(1024))
            except OSError:
                connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def tls(certificate: Path) -> Iterator[TlsServer]:
    server = TlsServer(certificate)
    yield server
    server.close()


def test_an_api_that_refuses_connections_is_a_fault(app: Celery) -> None:
    app.conf.ninja_api_url = f"http://127.0.0.1:{free_port()}"
    assert troubles(app) == {"api": "fault"}
    assert "ConnectionRefusedError" in findings(app)["api"].message


def test_an_api_whose_name_is_unknown_is_a_fault(app: Celery) -> None:
    app.conf.ninja_api_url = "https://api.invalid"
    assert troubles(app) == {"api": "fault"}
    assert "gaierror" in findings(app)["api"].message


def test_a_certificate_that_nobody_signed_is_a_fault(app: Celery, tls: TlsServer) -> None:
    app.conf.ninja_api_url = tls.url
    assert troubles(app) == {"api": "fault"}
    assert "self-signed certificate" in findings(app)["api"].message
    assert "REQUESTS_CA_BUNDLE" in str(findings(app)["api"].remedy)


@pytest.mark.parametrize("as_directory", [False, True])
def test_a_certificate_of_an_authority_of_ones_own_is_trusted_where_deliveries_trust_it(
    app: Celery,
    tls: TlsServer,
    certificate: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    as_directory: bool,
) -> None:
    by_hash = openssl("x509", "-noout", "-hash", "-in", str(certificate))
    tmp_path.joinpath(f"{by_hash}.0").write_bytes(certificate.read_bytes())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path if as_directory else certificate))
    app.conf.ninja_api_url = tls.url
    assert findings(app)["api"].level == "fault"
    app.conf.ninja_trust_env = True
    assert findings(app)["api"].level == "ok"
    wait_until(lambda: tls.heard, "the handshake")
    assert tls.heard == [b""]


def test_an_api_without_tls_behind_https_is_a_fault(
    app: Celery, fake_sales_ninja: FakeSalesNinja
) -> None:
    app.conf.ninja_api_url = fake_sales_ninja.url.replace("http:", "https:")
    assert troubles(app) == {"api": "fault"}


def test_an_api_that_is_silent_is_given_up_after_the_connect_timeout(app: Celery) -> None:
    app.conf.ninja_connect_timeout_seconds = 0.3
    with socket.create_server(("127.0.0.1", 0)) as silent:
        app.conf.ninja_api_url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        assert troubles(app) == {"api": "fault"}
        assert time.monotonic() - started < 2


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_with_a_proxy_only_the_proxy_is_reached(
    app: Celery, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    app.conf.update(ninja_api_url="https://api.invalid", ninja_trust_env=True)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        place = f"127.0.0.1:{proxy.getsockname()[1]}"
        monkeypatch.setenv("HTTPS_PROXY", f"{scheme}shop:{SECRET}@{place}")
        api = findings(app)["api"]
        assert api.level == "ok"
        assert f"the proxy {place} takes connections" in api.message
    assert troubles(app) == {"api": "fault"}


# Sentry


def test_without_a_dsn_nobody_is_told_which_is_a_warning(app: Celery) -> None:
    app.conf.ninja_sentry_dsn = None
    assert troubles(app) == {"sentry": "warning"}


@pytest.mark.parametrize(
    "dsn", [SECRET, f"https://{SECRET}@sentry.example", f"https://{SECRET}@sentry.example:x/1"]
)
def test_a_malformed_dsn_is_a_fault(app: Celery, dsn: str) -> None:
    app.conf.ninja_sentry_dsn = dsn
    assert troubles(app) == {"sentry": "fault"}


def test_an_application_that_set_up_sentry_itself_needs_no_dsn(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentry_sdk, "is_initialized", lambda: True)
    app.conf.ninja_sentry_dsn = None
    assert troubles(app) == {}


# Liveness


def test_a_liveness_file_in_a_folder_that_is_missing_is_a_warning(
    app: Celery, tmp_path: Path
) -> None:
    app.conf.ninja_liveness_file = str(tmp_path / "missing" / "alive")
    assert troubles(app) == {"liveness": "warning"}
    app.conf.ninja_liveness_file = str(tmp_path / "alive")
    assert troubles(app) == {}


# Workers, and what is written where they start


def worker_finding(app: Celery) -> Finding:
    (found,) = [one for one in preflight(app) if one.name == "workers"]
    return found


def test_no_worker_is_a_warning(app: Celery) -> None:
    assert worker_finding(app).level == "warning"
    assert "no worker answered" in worker_finding(app).message


def test_workers_are_not_asked_by_a_broker_that_is_away(
    app: Celery, server: EmbeddedServer
) -> None:
    server.stop()
    assert "workers" not in {one.name for one in preflight(app)}


def test_workers_that_may_not_be_asked_are_a_warning(app: Celery, client: redis.Redis) -> None:
    client.execute_command(
        "ACL", "SETUSER", "shop", "on", f">{SECRET}", "~*", "&*", "+@all", "-publish"
    )
    app.conf.broker_url = app.conf.broker_url.replace("//", f"//shop:{SECRET}@")
    assert "the workers could not be asked" in worker_finding(app).message


SHOP = """
from celery import Celery
from ninja_tasks import install

app = install(Celery("shop"))
"""


@pytest.fixture
def settings(app: Celery, tmp_path: Path) -> dict[str, str]:
    """The settings of workers of an application that looks at its set-up when they start."""
    tmp_path.joinpath("shop.py").write_text(SHOP)
    return clean_environment(
        CELERY_BROKER_URL=app.conf.broker_url,
        NINJA_API_URL=app.conf.ninja_api_url,
        SENTRY_DSN=f"http://{SECRET}@127.0.0.1:1/1",
    )


def test_a_worker_is_found_and_writes_what_is_wrong_when_it_starts(
    app: Celery, client: redis.Redis, settings: dict[str, str], tmp_path: Path
) -> None:
    client.config_set("appendonly", "no")
    with Worker(tmp_path, settings, pool="prefork", app="shop") as worker:
        assert worker_finding(app).level == "ok"
        app.control.cancel_consumer("ninja_tasks")
        idle = wait_until(
            lambda: (found := worker_finding(app)).level == "warning" and found, "its end"
        )
        assert "workers answered (1), but none consumes ninja_tasks" in idle.message
        log = worker.log
    assert "WARNING/MainProcess] warning (broker.persistence): redis://127.0.0.1" in log
    assert SECRET not in log


def test_a_strict_worker_does_not_start_with_a_fault(
    client: redis.Redis, settings: dict[str, str], tmp_path: Path
) -> None:
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "shop", "worker", "--pool=prefork"],
        cwd=tmp_path,
        env=settings | {"NINJA_STRICT": "true"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "not starting, because ninja_strict is on: mend broker.eviction" in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr + done.stdout


def test_each_finding_at_the_start_is_one_line(
    app: Celery, server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.stop()
    app.conf.ninja_sentry_dsn = None
    with caplog.at_level(logging.INFO):
        report_at_start(app)
    levels = [(record.levelname, record.getMessage().split(":")[0]) for record in caplog.records]
    assert levels == [
        ("WARNING", "fault (broker)"),
        ("WARNING", "fault (state)"),
        ("WARNING", "warning (sentry)"),
    ]
    assert not any("\n" in record.getMessage() for record in caplog.records)


def test_a_warning_does_not_keep_a_strict_worker_from_starting(
    app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    app.conf.update(ninja_strict=True, ninja_sentry_dsn=None)
    report_at_start(app)
    assert "warning (sentry)" in caplog.text


def test_a_fault_keeps_a_strict_worker_from_starting(app: Celery) -> None:
    app.conf.update(ninja_strict=True, ninja_sentry_dsn=SECRET)
    with pytest.raises(SystemExit, match="1"):
        report_at_start(app)


def test_the_start_goes_on_without_what_does_not_answer_in_time(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(package, "_PATIENCE_AT_START_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        app.conf.ninja_api_url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        report_at_start(app)
        assert time.monotonic() - started < 2
    assert "warning (api): api has not answered within 0.2 s" in caplog.text


def test_a_look_that_fails_itself_stops_neither_the_others_nor_the_worker(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise LookupError(SECRET)

    monkeypatch.setattr(package, "look_at_api", fail)
    assert troubles(app) == {"api": "warning"}
    monkeypatch.setattr(package, "preflight", fail)
    app.conf.ninja_strict = True
    report_at_start(app)
    assert "the set-up was not checked: LookupError" in caplog.text


# The command


def test_the_table_says_what_was_found_and_how_to_mend_it(app: Celery, client: redis.Redis) -> None:
    client.config_set("appendonly", "no")
    done = check(app)
    assert done.exit_code == 0
    for text in ("broker.persistence", "append-only file", "set appendonly yes", "broker.clock"):
        assert text in done.stdout
    assert re.search(r"faults: 0; warnings: 2; ok: \d+", done.output)
    assert SECRET not in done.output


def test_json_is_one_object_for_each_finding(app: Celery) -> None:
    lines = [json.loads(line) for line in check(app, "--json").stdout.splitlines()]
    assert [line.keys() for line in lines] == [
        {"level", "name", "message", "remedy"} for _line in lines
    ]
    levels = {line["name"]: line["level"] for line in lines}
    assert (levels["broker"], levels["workers"]) == ("ok", "warning")


def test_the_exit_code_is_1_for_a_fault_and_with_strict_for_a_warning(app: Celery) -> None:
    assert check(app, "--json").exit_code == 0
    assert check(app, "--json", "--strict").exit_code == 1
    app.conf.ninja_sentry_dsn = SECRET
    assert check(app, "--json").exit_code == 1


def test_a_broken_setting_exits_with_2(app: Celery) -> None:
    app.conf.ninja_max_attempts = "many"
    with pytest.raises(ConfigurationError):
        preflight(app)
    done = check(app)
    assert done.exit_code == 2
    assert "ninja_max_attempts must be a whole number" in done.output


# Secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:pw@localhost:6379/0", "redis://localhost:6379/0"),
        ("rediss://user:pw@one.example/0?password=pw", "rediss://one.example/0"),
        ("redis://:p%2Fw@[::1]:6379", "redis://[::1]:6379"),
        ("redis+socket:///run/redis.sock?virtual_host=1", "redis+socket:///run/redis.sock"),
        ("sentinel://:pw@one:1;sentinel://:pw@two:2", "sentinel://one:1;sentinel://two:2"),
        ("amqp://guest:pw@localhost//", "amqp://localhost//"),
        ("redis://:p/w@localhost", "redis://..."),
        ("redis://:p?w@localhost", "redis://..."),
        ("redis://:p#w@localhost", "redis://..."),
        ("redis://:p@w@localhost", "redis://..."),
        ("redis://:p;w@localhost", "redis://..."),
        ("redis://localhost/0?password=p@w", "redis://..."),
        ("pw", "..."),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


# Connections, and a Redis in cluster mode


def test_a_redis_that_takes_hardly_more_connections_is_a_warning(
    app: Celery, client: redis.Redis
) -> None:
    client.config_set("maxclients", 20)
    assert troubles(app) == {"broker.connections": "warning"}
    assert "takes 20 connections" in findings(app)["broker.connections"].message


@contextmanager
def cluster(slots: str = "0 16383", bus_port: int = 0) -> Iterator[EmbeddedServer]:
    """Run one node of a Redis Cluster, which has these slots."""
    options = {
        "--cluster-enabled": "yes",
        "--cluster-require-full-coverage": "no",
        "--cluster-port": str(bus_port or free_port()),
    }
    words = [word for option in options.items() for word in option]
    with embedded_server(appendonly=True, extra_arguments=words) as node:
        with redis.Redis.from_url(node.url) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots.split())
            wait_until(
                lambda: "state:ok" in str(client.execute_command("CLUSTER", "INFO")),
                "the cluster",
            )
        yield node


def test_a_redis_cluster_is_no_broker(fake_sales_ninja: FakeSalesNinja) -> None:
    with cluster() as node:
        broken = shop(node.url, ninja_api_url=fake_sales_ninja.url, ninja_sentry_dsn=DSN)
        found = findings(broken)
        assert found["broker.cluster"].level == "fault"
        assert "RabbitMQ" in str(found["broker.cluster"].remedy)


def test_state_in_a_redis_cluster_needs_a_prefix_that_keeps_its_keys_together(app: Celery) -> None:
    with cluster() as node:
        app.conf.ninja_redis_url = node.url
        found = findings(app)["state.cluster"]
        assert (found.level, "{ninja}:" in str(found.remedy)) == ("fault", True)
        app.conf.ninja_key_prefix = "{ninja}:"
        assert troubles(app) == {"state.cluster": "warning"}


def test_a_node_that_does_not_have_the_keys_is_a_fault_that_names_the_right_one(
    app: Celery,
) -> None:
    # The keys of the prefix {ninja}: lie in slot 11222.
    bus_port = free_port()
    with cluster("0 8191") as node, cluster("8192 16383", bus_port) as other:
        with redis.Redis.from_url(node.url) as client:
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, bus_port)

            def knows_the_other() -> bool:
                return "8192" in str(client.execute_command("CLUSTER", "NODES"))

            wait_until(knows_the_other, "the nodes to meet")
        app.conf.ninja_redis_url = node.url
        app.conf.ninja_key_prefix = "{ninja}:"
        found = findings(app)["state.cluster"]
        assert (found.level, f":{other.port}" in found.message) == ("fault", True)
