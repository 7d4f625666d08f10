"""The fake Sales Ninja over real sockets: strict, scriptable, and gone when it is stopped."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

import ninja_tasks.testing
from ninja_tasks.testing import Answer, CloseConnection, FakeSalesNinja, Hang, ReceivedGoal

PATH = "/outer/v1.0/goal/reach"
GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"
CUSTOMER_ID = "2eccd743-4164-4892-a416-dc5c16f44971"
SMALLEST = {"GoalId": GOAL_ID, "CustomerId": CUSTOMER_ID}
DOCUMENTED = [
    {
        "Ip": "185.237.80.128",
        "GoalId": GOAL_ID,
        "CustomerId": CUSTOMER_ID,
        "CreatedOnUtc": "2022-10-27 12:23:25.367999",
        "CustomUserScopeParams": {"Revenue": "12350", "NetProfit": "900"},
        "CustomPageScopeParams": {},
    },
    {**SMALLEST, "CustomPageScopeParams": {"Revenue": "12350", "NetProfit": "900"}},
]


@pytest.fixture
def api() -> Iterator[FakeSalesNinja]:
    with FakeSalesNinja() as started:
        yield started


@pytest.fixture
def client() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def post(
    client: requests.Session, api: FakeSalesNinja, body: Any = SMALLEST, **options: Any
) -> requests.Response:
    return client.post(api.url + PATH, json=body, timeout=options.pop("timeout", 5), **options)


def statuses(client: requests.Session, api: FakeSalesNinja, count: int) -> list[int]:
    return [post(client, api).status_code for _ in range(count)]


def is_order(number: str) -> Any:
    return lambda goal: goal.body["CustomPageScopeParams"]["Order"] == number


def order(number: str) -> dict[str, Any]:
    return {**SMALLEST, "CustomPageScopeParams": {"Order": number}}


# What it accepts


@pytest.mark.parametrize("body", DOCUMENTED)
def test_a_documented_goal_is_answered_200_with_an_empty_body(
    api: FakeSalesNinja, client: requests.Session, body: dict[str, Any]
) -> None:
    response = post(client, api, body)

    assert (response.status_code, response.content) == (200, b"")
    assert [goal.body for goal in api.delivered] == [body]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"GoalId": GOAL_ID}, "CustomerId"),
        ({**SMALLEST, "GoalId": "{" + GOAL_ID + "}"}, "GoalId"),
        ({**SMALLEST, "Revenue": "1"}, "Revenue"),
        ({**SMALLEST, "CustomPageScopeParams": {"Revenue": 1}}, "CustomPageScopeParams"),
        ({**SMALLEST, "CreatedOnUtc": "2022-10-27 12:23:25"}, "CreatedOnUtc"),
        ({**SMALLEST, "CreatedOnUtc": "2022-10-27T12:23:25.367999"}, "CreatedOnUtc"),
        ([SMALLEST], "_schema"),
    ],
)
def test_an_invalid_goal_is_answered_400_with_the_faults_by_field(
    api: FakeSalesNinja, client: requests.Session, body: Any, field: str
) -> None:
    response = post(client, api, body)

    assert response.status_code == 400
    assert list(response.json()) == [field]
    assert api.delivered == []


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", json.dumps(SMALLEST).encode("utf-16"), b"[" * 100_000],
    ids=["empty", "broken", "utf-16", "deep"],
)
def test_a_body_that_is_no_json_is_answered_400(
    api: FakeSalesNinja, client: requests.Session, raw: bytes
) -> None:
    headers = {"Content-Type": "application/json", "Content-Length": str(len(raw))}
    response = client.post(api.url + PATH, data=raw, headers=headers, timeout=5)

    assert response.status_code == 400
    assert api.requests[0].body is None
    assert api.requests[0].raw == raw


def test_a_script_cannot_make_it_accept_an_invalid_goal(
    api: FakeSalesNinja, client: requests.Session
) -> None:
    api.script(Answer(200), 204)

    assert post(client, api, {}).status_code == 400
    assert post(client, api, {}).status_code == 400
    assert api.delivered == []


def test_another_path_is_answered_404(api: FakeSalesNinja, client: requests.Session) -> None:
    assert client.post(api.url + "/", json=SMALLEST, timeout=5).status_code == 404
    assert client.get(api.url + "/favicon.ico", timeout=5).status_code == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_another_method_is_answered_405(
    api: FakeSalesNinja, client: requests.Session, method: str
) -> None:
    response = client.request(method, api.url + PATH, timeout=5)

    assert response.status_code == 405
    assert response.headers["Allow"] == "POST"
    assert post(client, api).status_code == 200


def test_another_content_type_is_answered_415(
    api: FakeSalesNinja, client: requests.Session
) -> None:
    assert client.post(api.url + PATH, data=SMALLEST, timeout=5).status_code == 415
    assert client.post(api.url + PATH, data=b"{}", timeout=5).status_code == 415


def test_a_chunked_body_is_answered_411(api: FakeSalesNinja, client: requests.Session) -> None:
    chunks = iter([json.dumps(SMALLEST).encode()])
    headers = {"Content-Type": "application/json"}

    assert client.post(api.url + PATH, data=chunks, headers=headers, timeout=5).status_code == 411
    assert post(client, api).status_code == 200


def test_a_content_length_that_is_no_number_is_answered_400(api: FakeSalesNinja) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nContent-Length: -1\r\n\r\n".encode())
        answer = connection.makefile("rb").readline()

    assert answer == b"HTTP/1.1 400 Bad Request\r\n"


def test_a_body_beyond_1_mib_is_answered_413_although_the_client_sends_it_all(
    api: FakeSalesNinja, client: requests.Session
) -> None:
    response = post(client, api, {"filler": "x" * (4 << 20)})

    assert response.status_code == 413
    assert response.headers["Connection"] == "close"


def test_a_faulty_request_is_recorded_and_uses_up_no_script(
    api: FakeSalesNinja, client: requests.Session
) -> None:
    api.script(503)
    client.get(api.url, timeout=5)

    assert post(client, api).status_code == 503
    assert [received.status for received in api.requests] == [404, 503]


# Scripts


def test_scripted_answers_go_to_requests_in_order_and_then_the_default_applies(
    api: FakeSalesNinja, client: requests.Session
) -> None:
    api.script(503, Answer(502))
    api.script(404)
    assert statuses(client, api, 4) == [503, 502, 404, 200]

    api.default = 500
    assert statuses(client, api, 2) == [500, 500]
    assert api.default == Answer(500)


def test_an_answer_carries_its_retry_after_headers_and_body(
    api: FakeSalesNinja, client: requests.Session
) -> None:
    date = "Fri, 31 Dec 1999 23:59:59 GMT"
    api.script(
        Answer(429, retry_after=7, body=b"slow down", headers=(("X-Trace", "abc"),)),
        Answer(503, retry_after=date),
    )
    first, second = post(client, api), post(client, api)

    assert (first.status_code, first.content) == (429, b"slow down")
    assert (first.headers["Retry-After"], first.headers["X-Trace"]) == ("7", "abc")
    assert second.headers["Retry-After"] == date


@pytest.mark.parametrize("wrong", [{"status": 101}, {"status": 600}])
def test_an_answer_with_an_impossible_status_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="from 200 to 599"):
        Answer(**wrong)


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_http_allows_no_body_is_refused_one(status: int) -> None:
    with pytest.raises(ValueError, match="cannot have a body"):
        Answer(status, body=b"text")


def test_a_delayed_answer_comes_late(api: FakeSalesNinja, client: requests.Session) -> None:
    api.script(Answer(delay_seconds=0.1))

    assert post(client, api).elapsed >= timedelta(seconds=0.1)


def test_a_goal_counts_as_delivered_although_the_client_gave_up_waiting(
    api: FakeSalesNinja, client: requests.Session
) -> None:
    api.script(Answer(delay_seconds=0.2))

    with pytest.raises(requests.ReadTimeout):
        post(client, api, timeout=0.05)
    assert api.requests[0].status is None
    api.wait_for(1, timeout_seconds=2)


@pytest.mark.parametrize("reaction", [CloseConnection(), CloseConnection(0.05), Hang(0.05)])
def test_a_closed_connection_gives_the_client_no_answer(
    api: FakeSalesNinja, client: requests.Session, reaction: CloseConnection | Hang
) -> None:
    api.script(reaction)

    with pytest.raises(requests.ConnectionError):
        post(client, api)
    assert [received.status for received in api.requests] == [None]
    assert post(client, api).status_code == 200


def test_a_hanging_request_is_silent_and_shows_up_at_once(
    api: FakeSalesNinja, client: requests.Session
) -> None:
    api.script(Hang())

    with pytest.raises(requests.ReadTimeout):
        post(client, api, timeout=0.1)
    assert [received.status for received in api.wait_for(1, delivered=False)] == [None]


def test_a_script_for_some_goals_comes_before_the_others_and_then_steps_aside(
    api: FakeSalesNinja, client: requests.Session
) -> None:
    api.script(502)
    api.script_for(is_order("7"), 503, 429)

    answers = [post(client, api, order(number)).status_code for number in "7877"]

    assert answers == [503, 502, 429, 200]


def test_a_script_for_some_goals_can_end_in_an_answer_for_good(
    api: FakeSalesNinja, client: requests.Session
) -> None:
    api.script_for(is_order("7"), 503, then=400)

    answers = [post(client, api, order(number)).status_code for number in "7778"]

    assert answers == [503, 400, 400, 200]


def test_of_two_scripts_for_one_goal_the_older_goes_first(
    api: FakeSalesNinja, client: requests.Session
) -> None:
    api.script_for(lambda goal: True, 503)
    api.script_for(lambda goal: True, 502, then=404)

    assert statuses(client, api, 3) == [503, 502, 404]


def test_a_failing_predicate_is_logged_and_closes_the_connection(
    api: FakeSalesNinja, client: requests.Session, caplog: pytest.LogCaptureFixture
) -> None:
    api.script_for(is_order("7"), 503)

    with pytest.raises(requests.ConnectionError):
        post(client, api, SMALLEST)
    assert "could not handle a request" in caplog.text
    assert "KeyError: 'CustomPageScopeParams'" in caplog.text


def test_every_scripted_answer_is_given_once_to_clients_in_parallel(api: FakeSalesNinja) -> None:
    api.script(*[503] * 40, *[429] * 30)

    def post_twenty(_: int) -> list[int]:
        with requests.Session() as own:
            return statuses(own, api, 20)

    with ThreadPoolExecutor(8) as threads:
        answers = Counter(
            status for batch in threads.map(post_twenty, range(8)) for status in batch
        )

    assert answers == {503: 40, 429: 30, 200: 90}
    assert len(api.delivered) == 90
    assert Counter(received.status for received in api.requests) == answers


# Records


def test_a_record_says_what_came_and_when(api: FakeSalesNinja, client: requests.Session) -> None:
    before, monotonic = datetime.now(UTC), time.monotonic()
    post(client, api, DOCUMENTED[0], headers={"Idempotency-Key": "delivery-1"})
    received = api.requests[0]

    assert received.body == DOCUMENTED[0]
    assert json.loads(received.raw) == DOCUMENTED[0]
    assert received.headers.get("CONTENT-type") == "application/json"
    assert (received.delivery_id, received.status) == ("delivery-1", 200)
    assert before <= received.at <= datetime.now(UTC)
    assert monotonic <= received.monotonic <= time.monotonic()


def test_a_record_shows_no_personal_data_in_its_repr(
    api: FakeSalesNinja, client: requests.Session
) -> None:
    post(client, api, DOCUMENTED[0])

    shown = repr(api.requests)
    assert CUSTOMER_ID not in shown
    assert "185.237.80.128" not in shown
    assert "status=200" in shown


def test_a_goal_without_an_idempotency_key_has_no_delivery_id(
    api: FakeSalesNinja, client: requests.Session
) -> None:
    post(client, api)

    assert api.requests[0].delivery_id is None


def test_nothing_of_a_request_is_logged_or_printed(
    client: requests.Session,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "ninja_tasks")
    with FakeSalesNinja() as api:
        post(client, api, DOCUMENTED[0])
        post(client, api, {"GoalId": "wrong"})
        client.get(api.url + "/secret", timeout=5)
        with socket.create_connection(("127.0.0.1", api.port), timeout=5) as connection:
            connection.sendall(b"no HTTP\r\n\r\n")
            connection.makefile("rb").read()

    assert capfd.readouterr() == ("", "")
    assert [line for line in caplog.records if line.name.startswith("ninja_tasks")] == []


def test_a_request_that_is_cut_off_is_not_recorded(
    api: FakeSalesNinja, client: requests.Session, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nContent-Length: 9\r\n\r\n{{".encode())
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""

    assert api.requests == []
    assert caplog.records == []


def test_waiting_ends_when_enough_goals_were_delivered(api: FakeSalesNinja) -> None:
    api.script(503)

    with requests.Session() as own, ThreadPoolExecutor(1) as thread:
        posting = thread.submit(statuses, own, api, 4)
        delivered = api.wait_for(3, timeout_seconds=5)
        assert posting.result() == [503, 200, 200, 200]

    assert [received.status for received in delivered] == [200, 200, 200]


def test_waiting_in_vain_says_how_many_came_and_what_they_were_answered(
    api: FakeSalesNinja, client: requests.Session
) -> None:
    api.script(503, CloseConnection())
    post(client, api)
    with pytest.raises(requests.ConnectionError):
        post(client, api)
    post(client, api)

    expected = (
        r"waited 0\.01 s for 2 delivered goals; "
        r"got 1 delivered of 3 requests \(200: 1, 503: 1, no answer: 1\)"
    )
    with pytest.raises(TimeoutError, match=expected):
        api.wait_for(2, timeout_seconds=0.01)


def test_clearing_forgets_the_requests_and_keeps_the_scripts(
    api: FakeSalesNinja, client: requests.Session
) -> None:
    api.script(200, 503)
    post(client, api)
    api.clear()

    assert (api.requests, api.delivered) == ([], [])
    assert post(client, api).status_code == 503
    assert len(api.requests) == 1


def test_a_late_answer_to_a_cleared_request_is_not_counted(
    api: FakeSalesNinja, client: requests.Session
) -> None:
    api.script(Answer(delay_seconds=0.1))

    with ThreadPoolExecutor(1) as thread:
        late = thread.submit(post, client, api)
        api.wait_for(1, delivered=False)
        api.clear()
        assert late.result().status_code == 200

    assert (api.requests, api.delivered) == ([], [])


def test_bodies_can_be_forgotten_after_scripts_and_callback_saw_them(
    client: requests.Session,
) -> None:
    seen: list[Any] = []
    with FakeSalesNinja(
        keep_bodies=False, on_request=lambda goal: seen.append((goal.body, goal.status))
    ) as api:
        api.script_for(is_order("7"), 503)
        post(client, api, order("7"))
        received = api.requests[0]

    assert seen == [(order("7"), 503)]
    assert (received.body, received.raw, received.headers.items()) == (None, b"", [])


def test_the_callback_hears_of_every_request_before_the_client_does(
    client: requests.Session,
) -> None:
    seen: list[int | None] = []

    def remember(received: ReceivedGoal) -> None:
        seen.append(received.status)

    with FakeSalesNinja(on_request=remember) as api:
        api.script(200, 503, CloseConnection())
        assert statuses(client, api, 2) == seen == [200, 503]
        with pytest.raises(requests.ConnectionError):
            post(client, api)

    assert seen == [200, 503, None]


# Outages


def test_it_refuses_connections_while_stopped_and_returns_on_the_same_port(
    api: FakeSalesNinja, client: requests.Session
) -> None:
    url = api.url
    for _ in range(3):
        assert post(client, api).status_code == 200
        api.stop()
        with pytest.raises(requests.ConnectionError, match="refused"):
            post(client, api)
        api.start()

    assert api.url == url
    assert len(api.delivered) == 3


def test_it_refuses_connections_before_its_first_start(client: requests.Session) -> None:
    with pytest.raises(requests.ConnectionError, match="refused"):
        post(client, FakeSalesNinja())


def test_nobody_can_take_its_port_while_it_is_stopped(api: FakeSalesNinja) -> None:
    api.stop()

    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", api.port))


def test_closing_gives_the_port_back_and_a_second_start_takes_it_again(
    client: requests.Session,
) -> None:
    with FakeSalesNinja() as api:
        port = api.port
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
    with api:
        assert post(client, api).status_code == 200

    assert api.port == port


def test_a_port_that_is_taken_is_an_error(api: FakeSalesNinja) -> None:
    with pytest.raises(OSError, match="in use"):
        FakeSalesNinja(api.port)


@pytest.mark.parametrize("silence", [Hang(), Answer(delay_seconds=60), CloseConnection(60)])
def test_stopping_releases_silent_requests_at_once(
    api: FakeSalesNinja, client: requests.Session, silence: Answer | CloseConnection | Hang
) -> None:
    api.script(silence)

    with ThreadPoolExecutor(1) as thread:
        posting = thread.submit(post, client, api)
        api.wait_for(1, delivered=False)
        started = time.monotonic()
        api.stop()
        assert isinstance(posting.exception(timeout=2), requests.ConnectionError)

    assert time.monotonic() - started < 1
    assert [received.status for received in api.requests] == [None]


def test_stopping_closes_idle_connections(api: FakeSalesNinja) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as idle:
        idle.sendall(f"GET / HTTP/1.1\r\nHost: {api.port}\r\n\r\n".encode())
        assert idle.recv(4096).startswith(b"HTTP/1.1 404")
        api.stop()
        while idle.recv(4096):
            pass


def test_a_callback_can_stop_it(client: requests.Session) -> None:
    def stop(received: ReceivedGoal) -> None:
        stopped_by_itself.stop()

    started = time.monotonic()
    stopped_by_itself = FakeSalesNinja(on_request=stop)
    with stopped_by_itself, pytest.raises(requests.ConnectionError):
        post(client, stopped_by_itself)

    assert time.monotonic() - started < 1


def test_starting_or_stopping_twice_changes_nothing(
    api: FakeSalesNinja, client: requests.Session
) -> None:
    assert api.start() is api
    assert post(client, api).status_code == 200
    api.stop()
    api.stop()


def test_no_thread_is_left_after_it_closed(client: requests.Session) -> None:
    before = set(threading.enumerate())
    with FakeSalesNinja() as api:
        post(client, api)
        started = set(threading.enumerate()) - before

    for thread in started:
        thread.join(timeout=2)
    assert started
    assert not any(thread.is_alive() for thread in started)


# The package and its pytest plugin


def test_every_public_name_can_be_imported_and_the_list_is_sorted() -> None:
    names = ninja_tasks.testing.__all__

    assert names == sorted(names)
    assert all(getattr(ninja_tasks.testing, name) for name in names)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ninja_tasks.testing.nothing


PLUGIN_TEST = """
import sys

assert "ninja_tasks.testing.fake_api" not in sys.modules
assert "ninja_tasks.testing.embedded" not in sys.modules

def test_both_servers_run(fake_sales_ninja, ninja_redis):
    import redis, requests
    body = {"GoalId": "%s", "CustomerId": "%s"}
    url = fake_sales_ninja.url + "/outer/v1.0/goal/reach"
    assert requests.post(url, json=body, timeout=5).status_code == 200
    assert len(fake_sales_ninja.delivered) == 1
    with redis.Redis.from_url(ninja_redis.url) as connection:
        assert connection.ping()

def test_the_next_test_has_a_fake_of_its_own(fake_sales_ninja):
    assert fake_sales_ninja.requests == []
"""


def test_the_pytest_plugin_gives_both_servers_and_loads_nothing_before(tmp_path: Path) -> None:
    (tmp_path / "test_plugin.py").write_text(PLUGIN_TEST % (GOAL_ID, CUSTOMER_ID))
    plugin = ["-p", "ninja_tasks.testing.pytest_plugin", "-p", "no:cacheprovider"]
    environment = {
        **os.environ,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", *plugin],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 passed" in run.stdout
