"""With RabbitMQ too, goals that wait for the limit take nothing from an application's own tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
from acceptance.test_limit import check_own_tasks, running_shop

from ninja_tasks.testing import EmbeddedServer, FakeSalesNinja


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_an_applications_own_task_does_not_wait_for_goals_that_wait_for_the_limit(
    tmp_path: Path,
    rabbitmq: str,
    ninja_redis: EmbeddedServer,
    fake_sales_ninja: FakeSalesNinja,
    pool: str,
) -> None:
    with running_shop(tmp_path, fake_sales_ninja, rabbitmq, ninja_redis.url, pool, "2/s") as shop:
        check_own_tasks(shop, fake_sales_ninja)
    # The node serves other tests too.
    with shop.app.connection_for_write() as connection:
        assert connection.default_channel.queue_purge("ninja_tasks") > 100
