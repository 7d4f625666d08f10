"""The command line without any server: help, wrong usage, dry runs, and what a person is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from stack import clean_environment
from unit.bad_goals import CUSTOMER_ID, GOAL_ID

from ninja_tasks.config import SETTINGS

AWAY = "redis://:geheim@127.0.0.1:1/0"
GOAL = json.dumps({"GoalId": GOAL_ID, "CustomerId": CUSTOMER_ID})
FLAGS = ("--goal-id", GOAL_ID, "--customer-id", CUSTOMER_ID)


@pytest.fixture
def run(tmp_path: Path):
    """Run ``ninja-tasks`` in an empty directory, with a broker that is away."""

    def command(
        *arguments: str, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).with_name("ninja-tasks"), *arguments],
            cwd=tmp_path,
            env=clean_environment(**{"CELERY_BROKER_URL": AWAY, **environment}),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return command


def test_help_lists_every_command_and_every_setting_with_its_default(run) -> None:
    text = run("--help").stdout
    for command in (
        "check",
        "dead",
        "demo",
        "enqueue",
        "fake-api",
        "pause",
        "resume",
        "stats",
        "status",
    ):
        assert f"\n  {command}" in text
        assert run(command, "--help").returncode == 0
    for setting in SETTINGS:
        assert setting.environment_variable in text
        assert setting.default is None or str(setting.default) in text


def test_celery_has_the_same_commands(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "ninja_tasks", "ninja", "--help"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "fake-api" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing"], "No such command"),
        (["status"], "give a delivery id, or --goal-id and --key"),
        (["status", "--goal-id", GOAL_ID], "give a delivery id, or --goal-id and --key"),
        (["dead", "replay"], "name delivery ids, or --all, or --reason"),
        (["dead", "replay", "x", "--all"], "name delivery ids, or --all, or --reason"),
        (["dead", "replay", "--all"], "add --yes"),
        (["dead", "discard", "--all"], "add --yes"),
        (["dead", "list", "--reason", "sad"], "--reason"),
        (["enqueue", *FLAGS, "--page-param", "novalue"], "must be NAME=VALUE"),
        (["enqueue", *FLAGS, *("--page-param", "a=1") * 2], "gives one name twice"),
        (["enqueue", *FLAGS, "--user-param", "a=1", "--user-param", "a=2"], "gives one name twice"),
        (["fake-api", "--status", "99"], "status"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_to_do(run, arguments: list[str], told: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stdout == ""


def test_a_broken_setting_exits_with_2_and_names_it(run) -> None:
    done = run("stats", NINJA_MAX_ATTEMPTS="many")
    assert done.returncode == 2
    assert "NINJA_MAX_ATTEMPTS must be a whole number from 1 to" in done.stderr


@pytest.mark.parametrize("command", [["stats"], ["dead", "list"], ["enqueue", *FLAGS]])
def test_a_server_that_is_away_exits_with_1_without_traceback_and_password(
    run, command: list[str]
) -> None:
    done = run(*command)
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
    assert "geheim" not in done.stderr


def test_lines_that_may_be_enqueued_are_named(run) -> None:
    done = run("enqueue", stdin=f"\n{GOAL}\n{GOAL}\n")
    assert done.returncode == 1
    assert "did not confirm 2 goals" in done.stderr
    assert "lines from 1 on" in done.stderr
    assert done.stdout == ""


def test_a_dry_run_of_flags_sends_nothing(run) -> None:
    money = ("--revenue", "12350", "--page-param", "promo=a=b", "--key", "order-17")
    done = run("enqueue", *FLAGS, *money, "--dry-run")
    assert done.returncode == 0
    assert done.stdout == ""
    assert "valid, not sent: 1; invalid: 0" in done.stderr


def test_a_dry_run_tells_how_many_goals_have_no_time(run) -> None:
    dated = [
        {**json.loads(GOAL), name: "2026-01-01 12:00:00"} for name in ("created_on", "CreatedOnUtc")
    ]
    dateless = [json.loads(GOAL), {**json.loads(GOAL), "created_on": None}]
    lines = "\n".join(json.dumps(goal) for goal in (*dated, *dateless, {"ip": "x"}))
    done = run("enqueue", "--dry-run", stdin=lines)
    assert "valid, not sent: 4; invalid: 1" in done.stderr
    assert "would be dated at the moment of enqueueing: 2\n" in done.stderr
    assert "would be dated" not in run("enqueue", "--dry-run", stdin=json.dumps(dated[0])).stderr


def test_invalid_lines_are_named_with_line_and_field(run) -> None:
    bad = json.dumps({"goal_id": GOAL_ID, "customer_id": CUSTOMER_ID, "ip": "198.51.100.999"})
    done = run("enqueue", "--dry-run", stdin=f"{GOAL}\n\n{bad}\n[]\n{{oops\n")
    assert done.returncode == 1
    assert "line 3: Ip: must be one IPv4 or IPv6 address" in done.stderr
    assert "line 4: goal: must be a JSON object" in done.stderr
    assert "line 5: goal: must be one JSON object on one line" in done.stderr
    assert "valid, not sent: 1; invalid: 3" in done.stderr
    assert "198.51.100.999" not in done.stderr


def test_a_name_that_a_line_gives_twice_is_refused(run) -> None:
    twice = [
        f"{GOAL[:-1]}, {more}" for more in ('"key": "a", "key": "b"}', '"a": {"b": 1, "b": 2}}')
    ]
    done = run("enqueue", "--dry-run", stdin="\n".join(twice))
    assert done.returncode == 1
    for number in (1, 2):
        assert f"line {number}: goal: has one name twice: give each name once" in done.stderr


def test_json_lines_say_what_became_of_each_line(run) -> None:
    keyed = json.dumps({**json.loads(GOAL), "key": "order-17"})
    done = run("enqueue", "--dry-run", "--json", stdin=f"{keyed}\n{{}}\n")
    lines = {line["line"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert lines[1]["delivery_id"]
    assert lines[1]["messages"] is None
    assert lines[2]["delivery_id"] is None
    assert lines[2]["messages"].keys() == {"GoalId", "CustomerId"}
