"""A Celery application with one task that does nothing: the least that a first ``delay`` costs."""

import os

from celery import Celery

app = Celery("bare", broker=os.environ["BENCH_BROKER"])


@app.task(ignore_result=True)
def reach(body):
    pass


def enqueue_each(bodies):
    for body in bodies:
        reach.delay(body)
