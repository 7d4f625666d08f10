"""What Sentry hears of very many bad messages and of a broker that is down: little, of each."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import redis
from celery import Celery
from fleet import size
from malformed import CASES, Parts
from stack import Kent, Worker, clean_environment, wait_until

from ninja_tasks.testing import FakeSalesNinja, embedded_server

MESSAGES = size(300, 3000)
CLASSES = {"a body that is not JSON": "DecodeError", "an unknown task": "KeyError"}
LETTERS = {f"Goal not delivered: malformed ({name}, status none)" for name in CLASSES.values()}
CANNOT_CONNECT = "consumer: Cannot connect to %s: %s.\n%s\n"
SHOP = """
import logging
import os

import sentry_sdk
from celery import Celery
from celery.signals import celeryd_init
from ninja_tasks import install
from sentry_sdk.integrations.logging import LoggingIntegration

app = install(Celery("shop", broker=os.environ["CELERY_BROKER_URL"]))

@celeryd_init.connect
def set_sentry_up(**signal):
    lines = LoggingIntegration(event_level=logging.WARNING)
    sentry_sdk.init(dsn=os.environ["SHOP_DSN"], integrations=[lines])

@app.task
def noisy():
    for _ in range(3):
        logging.getLogger("shop").error("the shop's own line")
"""


def kinds_of(kent: Kent) -> Counter[str]:
    """Return how many events there are of each kind."""
    return Counter(
        str(event.get("message") or event.get("logentry", {}).get("message"))
        for event in kent.all_events()
    )


@pytest.mark.parametrize(("owner", "pool"), [("package", "threads"), ("application", "prefork")])
def test_a_flood_of_bad_messages_and_an_outage_are_few_events(
    owner: str, pool: str, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    app = {"package": "ninja_tasks", "application": "shop"}[owner]
    name_of_dsn = {"package": "SENTRY_DSN", "application": "SHOP_DSN"}[owner]
    with closing(Kent()) as kent, embedded_server() as broker, FakeSalesNinja() as api:
        environment = clean_environment(
            CELERY_BROKER_URL=broker.url, NINJA_API_URL=api.url, **{name_of_dsn: kent.dsn}
        )
        with Worker(tmp_path, environment, pool=pool, app=app) as worker:
            flood(broker.url)
            wait_until(lambda: kinds_of(kent).keys() >= LETTERS, "both classes", 10)
            if owner == "application":
                app_of_shop = Celery("sender", broker=broker.url, set_as_current=False)
                app_of_shop.send_task("shop.noisy")
                wait_until(lambda: kinds_of(kent)["the shop's own line"] == 3, "the shop's lines")
            broker.stop()
            wait_until(lambda: worker.log.count("Cannot connect to") >= 2, "two tries")
            wait_until(lambda: kinds_of(kent)[CANNOT_CONNECT], "the outage")
            broker.start()
            wait_until(lambda: "Connected to" in worker.log.split("Cannot connect")[-1], "its end")
        kinds = kinds_of(kent)
    assert all(kinds[kind] <= 2 for kind in LETTERS), kinds
    assert kinds[CANNOT_CONNECT] == 1
    assert max(kinds.values()) <= 3, kinds
    assert sum(kinds.values()) <= 20, kinds


def flood(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        pipeline = client.pipeline()
        for number in range(MESSAGES):
            parts = Parts()
            CASES[list(CLASSES)[number % len(CLASSES)]](parts)
            pipeline.lpush("ninja_tasks", json.dumps(parts.packed()))
        pipeline.execute()
        wait_until(lambda: client.hlen("ninja:dead") == MESSAGES, "all letters", 60)
