"""ninja_tasks as its README sets it up."""

import os

from celery import Celery

from ninja_tasks import enqueue_goal, enqueue_goals, install

app = install(Celery("shop", broker=os.environ["BENCH_BROKER"]))


def _arguments(body):
    return {
        "goal_id": body["GoalId"],
        "customer_id": body["CustomerId"],
        "session_id": body["SessionId"],
        "ip": body["Ip"],
        "created_on": body["CreatedOnUtc"],
        "user_params": body["CustomUserScopeParams"],
        "page_params": body["CustomPageScopeParams"],
    }


def enqueue_each(bodies):
    for body in bodies:
        enqueue_goal(**_arguments(body))


def enqueue_many(bodies):
    enqueue_goals(bodies)
