"""RQ on Redis: a process forked for each job."""

import os

import requests
from redis import Redis
from rq import Queue, Retry

URL = os.environ["BENCH_API"] + "/outer/v1.0/goal/reach"


def reach(body):
    requests.post(URL, json=body, timeout=10).raise_for_status()


def _queue():
    return Queue("bench", connection=Redis.from_url(os.environ["BENCH_BROKER"]))


def enqueue_each(bodies):
    queue = _queue()
    for body in bodies:
        queue.enqueue("rq_redis.reach", body, retry=Retry(max=10), result_ttl=0)


def enqueue_many(bodies):
    queue = _queue()
    queue.enqueue_many(
        [
            Queue.prepare_data("rq_redis.reach", (body,), retry=Retry(max=10), result_ttl=0)
            for body in bodies
        ]
    )
