"""Huey on Redis: threads; a task that a dead worker had taken is gone."""

import os
import threading

import requests
from huey import RedisHuey

huey = RedisHuey("bench", url=os.environ["BENCH_BROKER"], results=False)
URL = os.environ["BENCH_API"] + "/outer/v1.0/goal/reach"
own = threading.local()


@huey.task(retries=10, retry_delay=10)
def reach(body):
    if not hasattr(own, "session"):
        own.session = requests.Session()
    own.session.post(URL, json=body, timeout=10).raise_for_status()


def enqueue_each(bodies):
    for body in bodies:
        reach(body)
