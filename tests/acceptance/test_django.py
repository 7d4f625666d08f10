"""A worker of a Django project: what it reads of Django's settings, and what it says of others."""

from __future__ import annotations

from pathlib import Path

from celery import Celery
from stack import Worker, clean_environment, wait_until
from unit.bad_goals import GOOD

from ninja_tasks import enqueue_goal, install
from ninja_tasks.testing import EmbeddedServer, FakeSalesNinja

SHOP = """
from celery import Celery
from ninja_tasks import install

app = install(Celery("shop"))
assert app.conf.timezone is None
app.config_from_object("django.conf:settings", namespace="CELERY")
"""


def test_a_worker_reads_djangos_settings_and_names_those_that_are_not_read(
    tmp_path: Path, ninja_redis: EmbeddedServer, fake_sales_ninja: FakeSalesNinja
) -> None:
    tmp_path.joinpath("shop.py").write_text(SHOP)
    tmp_path.joinpath("shop_settings.py").write_text(
        f"""
CELERY_BROKER_URL = "{ninja_redis.url}"
CELERY_NINJA_API_URL = "{fake_sales_ninja.url}"
CELERY_TASK_ROUTES = {{"shop.*": {{"queue": "shop"}}}}
NINJA_RATE_LIMIT = "1/h"
"""
    )
    environment = clean_environment(DJANGO_SETTINGS_MODULE="shop_settings", NINJA_RATELIMIT="1/h")

    web = install(Celery("web", broker=ninja_redis.url, set_as_current=False))
    with Worker(tmp_path, environment, pool="threads", app="shop") as worker:
        ids = {enqueue_goal(**GOOD, app=web) for _ in range(3)}
        ids.add(web.send_task("ninja_tasks.reach_goal", args=[body()]).id)
        wait_until(
            lambda: ids <= {one.delivery_id for one in fake_sales_ninja.delivered}, "the goals"
        )
        assert "NINJA_RATE_LIMIT in Django's settings is not read" in worker.log
        assert "did you mean CELERY_NINJA_RATE_LIMIT?" in worker.log
        assert "NINJA_RATELIMIT in the environment is not read" in worker.log


def body() -> dict[str, str]:
    return {"GoalId": GOOD["goal_id"], "CustomerId": GOOD["customer_id"]}
