"""What an error of Redis means: whether it can pass, and what a log may say of it."""

from __future__ import annotations

import pytest
import redis
from kombu.exceptions import OperationalError
from redis.exceptions import (
    BusyLoadingError,
    DataError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from ninja_tasks.redis_errors import can_pass, is_refused, reason_of

GOAL = '{"CustomerId":"2eccd743","Ip":"192.0.2.7"}'
IN_A_PIPELINE = f"Command # 1 (HSET ninja:dead one {GOAL}) of pipeline caused error: "
BEFORE_VERSION_7 = "Error running script (call to f_1): @user_script:3: @user_script: 3: -OOM no"

REFUSED = [
    OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    ResponseError("NOREPLICAS Not enough good replicas to write. script: on @user_script:1."),
    ResponseError("MISCONF Valkey is configured to save RDB snapshots"),
    ResponseError(f"{IN_A_PIPELINE}NOREPLICAS Not enough good replicas to write."),
    ResponseError(BEFORE_VERSION_7),
    ResponseError("BUSY Valkey is busy running a script."),
    NoPermissionError("this user has no permissions to run the 'hset' command"),
]
OF_THE_WRONG_SERVER = [
    ReadOnlyError("You can't write against a read only replica."),
    MasterDownError("Link with MASTER is down"),
    BusyLoadingError("Valkey is loading the dataset in memory"),
    ResponseError("UNBLOCKED force unblock from blocking operation"),
]
LASTING = [
    DataError("Invalid input of type: 'bool'."),
    ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
    ResponseError("value is not an integer or out of range script: on @user_script:1."),
    ResponseError("wrong number of arguments for 'set' command"),
]


@pytest.mark.parametrize("error", REFUSED)
def test_what_redis_refuses_for_now_is_asked_again(error: ResponseError) -> None:
    assert is_refused(error)
    assert can_pass(error)


@pytest.mark.parametrize(
    "error",
    [*OF_THE_WRONG_SERVER, redis.ConnectionError(), redis.TimeoutError(), OperationalError()],
)
def test_what_another_server_may_answer_is_asked_again(error: Exception) -> None:
    assert can_pass(error)
    assert not is_refused(error)


@pytest.mark.parametrize("error", LASTING)
def test_what_cannot_be_answered_is_not_asked_again(error: Exception) -> None:
    assert not can_pass(error)


def test_the_reason_names_the_code_and_nothing_of_a_goal() -> None:
    assert reason_of(ReadOnlyError("You can't write.")) == "READONLY You can't write."
    assert reason_of(ResponseError(f"{IN_A_PIPELINE}WRONGTYPE it is")) == "WRONGTYPE it is"
    unknown = ResponseError(f"unknown command 'HSETEX', with args beginning with: '{GOAL}'")
    assert reason_of(unknown) == "unknown command 'HSETEX'"
    assert reason_of(redis.TimeoutError()) == "TimeoutError"
    assert len(reason_of(ResponseError("x" * 5000))) < 200
