"""What all tests share: fleets of workers, and the table of faults."""

from __future__ import annotations

from typing import Any

from fleet import durable_fleet, fault, fleet, measured, print_faults
from tls import certificate

__all__ = ["certificate", "durable_fleet", "fault", "fleet", "measured"]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    print_faults(terminalreporter)
