"""Enqueue goals with one contender: ``python produce.py MODULE each|many GOALS``.

It prints as JSON the seconds and the processor time that the loop took, imports and the first
connection left out, and by how many megabytes the process's memory grew meanwhile.
"""

import importlib
import json
import resource
import sys
import time

from goals import bodies


def main(module: str, way: str, number: int) -> None:
    enqueue = getattr(importlib.import_module(module), f"enqueue_{way}")
    if number > 1:
        enqueue(bodies(1))
        number -= 1
    megabytes = most_megabytes()
    started, cpu = time.perf_counter(), time.process_time()
    enqueue(bodies(number))
    result = {
        "goals": number,
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
        "grown": most_megabytes() - megabytes,
    }
    sys.stdout.write(json.dumps(result) + "\n")


def most_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
