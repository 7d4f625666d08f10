"""What the check says of an application's configuration."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from ninja_tasks import install
from ninja_tasks.message import TASK_NAME
from ninja_tasks.preflight.application import judge_application


def findings(kind: str = "redis", **configuration: Any) -> dict[str, str]:
    app = install(Celery("shop", broker="memory://", set_as_current=False))
    app.conf.update(configuration)
    return {one.name: one.level for one in judge_application(app, kind)}


def test_a_usual_configuration_is_well() -> None:
    assert findings() == {"application": "ok"}


def test_what_the_task_overrules_for_all_tasks_is_not_worth_a_word() -> None:
    assert findings(task_annotations={"*": {"max_retries": 3}}) == {"application": "ok"}


@pytest.mark.parametrize("name", ["max_retries", "acks_late", "rate_limit", "@run", "time_limit"])
def test_an_annotation_of_this_task_that_does_not_apply_is_named(name: str) -> None:
    expected = {"application.annotations": "warning"}
    assert findings(task_annotations={TASK_NAME: {name: None}}) == expected
    assert findings(task_annotations=[{TASK_NAME: {name: None, "send_events": False}}]) == expected


def test_goals_that_are_not_sent_are_a_fault() -> None:
    assert findings(task_always_eager=True) == {"application.eager": "fault"}


def test_requests_that_are_cut_off_are_a_warning() -> None:
    setting = {"worker_cancel_long_running_tasks_on_connection_loss": True}
    assert findings(**setting) == {"application.cancelling": "warning"}


def test_a_worker_that_ends_when_a_node_of_rabbitmq_comes_back_is_a_warning() -> None:
    assert findings("amqp") == {"application.ending": "warning"}
    assert findings("amqp", broker_channel_error_retry=True) == {"application": "ok"}
