"""Every snippet of the README runs against real parts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import _state
from stack import clean_environment, wait_until

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
    "celery -A ninja_tasks worker --pool=threads --concurrency=32": "below, in the background",
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
    (code,) = [code for code in snippets("python") if "InvalidGoal" in code]
    exec(code, {})  # noqa: S102
    comment = code.split("# ")[-1].removesuffix(" ...\n")
    assert comment in capsys.readouterr().out


def snippet_of_the_worker() -> str:
    (command,) = [script for script in RUN_ELSEWHERE if " worker " in script]
    return command


def with_django(action: Any) -> None:
    """Run something where Django is set up and no transaction is open: at once, that is."""
    from django.conf import settings

    if not settings.configured:
        memory = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
        settings.configure(DATABASES=memory)
    action()
