"""An application's own tests: goals are checked, can be looked at, and do not leave the process."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from click.testing import CliRunner
from stack import clean_environment, tell_of_worker
from unit.bad_goals import CUSTOMER_ID, GOAL_ID, GOOD

from ninja_tasks import (
    InvalidGoal,
    PublishError,
    delivery_id_for,
    enqueue_goal,
    enqueue_goals,
    goal_status,
    install,
)
from ninja_tasks.cli import ninja
from ninja_tasks.errors import NinjaTasksError
from ninja_tasks.testing import OutboxGoal, outbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery.canvas import Signature

ORDER = delivery_id_for(GOAL_ID, "order-17")
BODY = {"GoalId": GOAL_ID, "CustomerId": CUSTOMER_ID}


@pytest.fixture(autouse=True)
def connected_to(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Whatever somebody tries to connect to, which must be nothing at the end of a test."""
    tried: list[Any] = []

    def connect(_: socket.socket, address: Any) -> None:
        tried.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket.socket, "connect", connect)
    yield tried
    assert tried == []


@pytest.fixture
def app() -> Celery:
    return Celery("shop", broker="amqp://127.0.0.1:1//", set_as_current=False)


@pytest.fixture
def eager(app: Celery) -> Celery:
    app.conf.task_always_eager = True
    return app


def test_an_outbox_has_what_would_have_been_sent(app: Celery) -> None:
    with outbox() as goals:
        one = enqueue_goal(**GOOD, revenue=900, key="order-17", on_unknown="retry", app=app)
        result = enqueue_goals([{"GoalId": GOAL_ID, "CustomerId": CUSTOMER_ID}], app=app)
        assert goal_status(one, app=app).state == "pending"
    assert [goal.delivery_id for goal in goals] == [ORDER, *result.delivery_ids]
    assert one == ORDER
    assert goals[0].body["CustomPageScopeParams"] == {"Revenue": "900"}
    assert goals[0].body["CreatedOnUtc"]
    assert (goals[0].key, goals[0].on_unknown) == ("order-17", "retry")
    assert (goals[1].key, goals[1].on_unknown) == (None, None)
    assert not result.sent
    assert CUSTOMER_ID not in repr(goals)


def test_an_outbox_inside_another_has_its_own_goals(app: Celery) -> None:
    with outbox() as outer:
        with outbox() as inner:
            enqueue_goal(**GOOD, app=app)
        enqueue_goal(**GOOD, key="order-17", app=app)
    assert (len(inner), [goal.key for goal in outer]) == (1, ["order-17"])


def test_the_fixture_is_an_outbox(app: Celery, ninja_outbox: list[OutboxGoal]) -> None:
    enqueue_goal(**GOOD, key="order-17", app=app)
    assert [goal.delivery_id for goal in ninja_outbox] == [ORDER]


def test_an_eager_application_checks_goals_and_sends_none(eager: Celery) -> None:
    assert enqueue_goal(**GOOD, key="order-17", app=eager) == ORDER
    result = enqueue_goals([{**GOOD, "key": "order-17"}, {}], app=eager, on_invalid="collect")
    assert (list(result.delivery_ids), result.sent) == ([ORDER], False)
    assert [index for index, _ in result.invalid] == [1]
    with pytest.raises(InvalidGoal):
        enqueue_goal(goal_id="?", customer_id=CUSTOMER_ID, app=eager)


def test_an_eager_application_is_told_that_goals_are_pending(eager: Celery) -> None:
    assert goal_status(goal_id=GOAL_ID, key="order-17", app=eager).delivery_id == ORDER
    assert goal_status(ORDER, app=eager).state == "pending"


def test_eager_mode_may_begin_and_end_at_any_time(eager: Celery, connected_to: list[Any]) -> None:
    enqueue_goal(**GOOD, app=eager)
    assert connected_to == []
    eager.conf.task_always_eager = False
    with pytest.raises(PublishError):
        enqueue_goal(**GOOD, app=eager)
    assert connected_to
    connected_to.clear()


@pytest.mark.parametrize("way", ["delay", "apply_async", "apply", "signature"])
def test_the_task_of_an_eager_application_goes_into_the_outbox_too(eager: Celery, way: str) -> None:
    eager.conf.ninja_redis_url = "redis://127.0.0.1:1/0"
    tell_of_worker(install(eager))
    task = eager.tasks["ninja_tasks.reach_goal"]
    ways = {
        "delay": lambda: task.delay(BODY),
        "apply_async": lambda: task.apply_async((BODY,)),
        "apply": lambda: task.apply((BODY,)),
        "signature": lambda: called(task.s(BODY)),
    }
    with outbox() as goals:
        result = ways[way]()
    assert [(goal.delivery_id, goal.body) for goal in goals] == [(result.id, BODY)]
    assert result.get() is None


def called(signature: Signature) -> Any:
    return signature.delay()


def test_the_task_is_not_run_where_it_is_called(app: Celery) -> None:
    app.conf.ninja_redis_url = "redis://127.0.0.1:1/0"
    tell_of_worker(install(app))
    task = app.tasks["ninja_tasks.reach_goal"]
    for call in (lambda: task(BODY), lambda: task.apply((BODY,))):
        with pytest.raises(NinjaTasksError, match="only workers call reach_goal"):
            call()


def test_the_command_line_does_not_pretend_to_send(eager: Celery) -> None:
    done = CliRunner().invoke(
        ninja,
        ["enqueue", "--goal-id", GOAL_ID, "--customer-id", CUSTOMER_ID],
        obj=type("Object", (), {"app": eager}),
    )
    assert done.exit_code == 2
    assert "task_always_eager" in done.output


def test_djangos_settings_make_an_application_eager(tmp_path: Path) -> None:
    tmp_path.joinpath("shop_settings.py").write_text("CELERY_TASK_ALWAYS_EAGER = True\n")
    code = f"""
import celery, ninja_tasks
from ninja_tasks.testing import outbox
from django.test.utils import override_settings
app = ninja_tasks.install(celery.Celery("shop"))
app.config_from_object("django.conf:settings", namespace="CELERY")
with outbox() as goals:
    pass
result = ninja_tasks.enqueue_goals([{GOOD!r}])
print(result.sent, ninja_tasks.goal_status(result.delivery_ids[0]).state)
app.conf.broker_url = "redis://127.0.0.1:1/0"
with override_settings(CELERY_TASK_ALWAYS_EAGER=False):
    try:
        ninja_tasks.enqueue_goal(**{GOOD!r})
    except ninja_tasks.PublishError:
        print("tried")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=clean_environment(DJANGO_SETTINGS_MODULE="shop_settings"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "False pending\ntried\n", done.stderr
