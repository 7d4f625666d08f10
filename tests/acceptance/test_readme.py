"""Every snippet of the README runs against real parts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery import _state
from stack import clean_environment, free_port, wait_until

import ninja_tasks
from ninja_tasks import goal_status
from ninja_tasks.testing import FakeSalesNinja, embedded_server

if TYPE_CHECKING:
    from collections.abc import Iterator

README = Path(__file__).parents[2] / "README.md"
GOAL_ID = "299837db-9b51-45a4-996b-844d3fd05bbd"

#: Snippets that install, run for ever, or contain this very test, and where they are run instead.
RUN_ELSEWHERE = {
    "make demo\nmake test": "this is the second; the first's command is run by test_packaging",
    "pip install ninja-tasks": "by test_packaging, from a wheel",
    "celery -A ninja_tasks worker": "below, in the background",
}


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The broker at its usual address is another one here, for snippets and commands alike."""
    with embedded_server() as server, FakeSalesNinja() as api:
        settings = {
            "CELERY_BROKER_URL": server.url,
            "NINJA_API_URL": api.url,
            "NINJA_RATE_LIMIT": "500/s",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        yield clean_environment(**settings, PATH=path)


@pytest.fixture
def current_app() -> Iterator[None]:
    """The snippets make Celery applications, each of which becomes the current one."""
    before = _state._tls.current_app, _state.default_app
    yield
    _state._tls.current_app, _state.default_app = before


@pytest.mark.usefixtures("current_app")
def test_every_snippet_runs(environment: dict[str, str], tmp_path: Path) -> None:
    install, *others = sorted(snippets("python"), key=lambda code: "install(Celery" not in code)
    names: dict[str, Any] = {}
    exec(install, names)  # noqa: S102 (running the README is what this test is for)
    for code in others:
        exec(code, names)  # noqa: S102
    names["create_app"]()
    order = type("Order", (), {"ninja_customer_id": GOAL_ID, "total": 12350, "pk": 19})
    with_django(lambda: names["order_paid"](order))

    command = snippet_of_the_worker().split()
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        for key in ("order-17", "order-19", "import-999"):
            wait_until(
                lambda key=key: (
                    goal_status(goal_id=GOAL_ID, key=key, app=names["app"]).state == "delivered"
                ),
                f"{key} to be delivered",
            )
    finally:
        worker.terminate()
        worker.wait(20)

    for script in snippets("sh"):
        if script.strip() not in RUN_ELSEWHERE:
            done = subprocess.run(
                ["bash", "-euc", script],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, f"{script}\n{done.stderr}"


def test_what_is_run_elsewhere_is_still_in_the_readme() -> None:
    assert set(RUN_ELSEWHERE) <= {script.strip() for script in snippets("sh")}


def test_the_first_code_stands_within_the_first_twenty_lines() -> None:
    assert "enqueue_goal(" in "\n".join(README.read_text().splitlines()[:20])


def test_the_comment_on_the_refusal_is_what_the_code_says(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = [code for code in snippets("python") if "print(error)" in code]
    exec(code, {})  # noqa: S102
    comment = code.split("# ")[-1].removesuffix(" ...\n")
    assert comment in capsys.readouterr().out


def snippet_of_the_worker() -> str:
    (found,) = (one for one in snippets("sh") if one.startswith("celery -A ninja_tasks worker"))
    return found


def with_django(action: Any) -> None:
    """Run something where Django is set up and no transaction is open: at once, that is."""
    import django
    from django.conf import settings

    if not settings.configured:
        memory = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
        settings.configure(DATABASES=memory, LOGGING_CONFIG=None)
        django.setup()
    action()


def pay(order: Any, order_paid: Any) -> list[str]:
    """Pay an order in a transaction as a view does, and return what became of it."""
    from django.db import connection, transaction

    happened = []
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS paid (pk INTEGER)")
        cursor.execute("INSERT INTO paid VALUES (%s)", [order.pk])
        order_paid(order)
        transaction.on_commit(lambda: happened.append("later hook"))
        happened.append("before the commit")
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM paid WHERE pk = %s", [order.pk])
        assert cursor.fetchone() == (1,)
    return happened


@pytest.mark.usefixtures("current_app")
def test_a_paid_order_stays_paid_whatever_becomes_of_its_goal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setenv("NINJA_PUBLISH_TIMEOUT_SECONDS", "1")
    names: dict[str, Any] = {"ninja_tasks": ninja_tasks}
    (install,) = [code for code in snippets("python") if "install(Celery(" in code.split("def")[0]]
    (django,) = [code for code in snippets("python") if "django" in code]
    exec(install, names)  # noqa: S102
    exec(django, names)  # noqa: S102
    clients = {20: GOAL_ID, 21: None, 22: "", 23: "GA1.2.1234", 24: GOAL_ID}
    totals = {24: 12.5}
    for number, customer_id in clients.items():
        order = SimpleNamespace(
            pk=number, ninja_customer_id=customer_id, total=totals.get(number, 12350)
        )
        happened: list[str] = []
        with_django(lambda order=order, to=happened: to.extend(pay(order, names["order_paid"])))
        assert happened == ["before the commit", "later hook"]
    told = [line for line in caplog.messages if line.startswith("order ")]
    assert [line.split(":")[0] for line in told] == [
        "order 20 has no goal",
        "order 23 has no goal",
        "order 24 has no goal",
    ]
    assert "the broker did not confirm" in told[0]
    assert "CustomerId: must be a GUID" in told[1]
    assert "revenue: must be an int, a Decimal" in told[2]
    assert "GA1.2.1234" not in caplog.text
