"""The ten-line task: Celery as it comes, with autoretry."""

import os

import requests
from celery import Celery

app = Celery("plain", broker=os.environ["BENCH_BROKER"])
URL = os.environ["BENCH_API"] + "/outer/v1.0/goal/reach"


@app.task(
    autoretry_for=(requests.RequestException,),
    retry_backoff=True,
    max_retries=10,
    ignore_result=True,
)
def reach(body):
    requests.post(URL, json=body, timeout=10).raise_for_status()


def enqueue_each(bodies):
    for body in bodies:
        reach.delay(body)
