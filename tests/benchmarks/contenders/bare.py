"""The floor: a loop of ``requests.Session().post``, no queue, no worker, nothing kept."""

import os
import sys

import requests
from goals import bodies

URL = os.environ["BENCH_API"] + "/outer/v1.0/goal/reach"

if __name__ == "__main__":
    session = requests.Session()
    for body in bodies(int(sys.argv[1])):
        session.post(URL, json=body, timeout=10).raise_for_status()
