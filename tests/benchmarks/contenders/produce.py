"""Enqueue goals with one contender: ``python produce.py MODULE each|many GOALS``.

It prints the seconds and the processor time that the loop took as JSON, imports and the first
connection left out.
"""

import importlib
import json
import sys
import time

from goals import bodies


def main(module: str, way: str, number: int) -> None:
    enqueue = getattr(importlib.import_module(module), f"enqueue_{way}")
    if number > 1:
        enqueue(bodies(1))
        number -= 1
    started, cpu = time.perf_counter(), time.process_time()
    enqueue(bodies(number))
    result = {
        "goals": number,
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
