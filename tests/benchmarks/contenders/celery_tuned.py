"""Celery by someone who knows it: threads, a session for each, late acknowledgement."""

import os
import threading

import requests
from celery import Celery

app = Celery("tuned", broker=os.environ["BENCH_BROKER"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=4,
    task_ignore_result=True,
    broker_transport_options={"visibility_timeout": 3600},
)
URL = os.environ["BENCH_API"] + "/outer/v1.0/goal/reach"
own = threading.local()


@app.task(autoretry_for=(requests.RequestException,), retry_backoff=True, max_retries=10)
def reach(body):
    if not hasattr(own, "session"):
        own.session = requests.Session()
    own.session.post(URL, json=body, timeout=10).raise_for_status()


def enqueue_each(bodies):
    for body in bodies:
        reach.delay(body)
