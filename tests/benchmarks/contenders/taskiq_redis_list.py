"""taskiq on a Redis list: asyncio with aiohttp; a task that a dead worker had taken is gone."""

import asyncio
import os

import aiohttp
from taskiq import TaskiqEvents
from taskiq_redis import ListQueueBroker

URL = os.environ["BENCH_API"] + "/outer/v1.0/goal/reach"
broker = ListQueueBroker(os.environ["BENCH_BROKER"])


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def startup(state):
    state.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def shutdown(state):
    await state.session.close()


@broker.task(task_name="reach", retry_on_error=True)
async def reach(body):
    async with broker.state.session.post(URL, json=body) as response:
        response.raise_for_status()
        await response.read()


async def _enqueue(bodies):
    await broker.startup()
    for body in bodies:
        await reach.kiq(body)
    await broker.shutdown()


def enqueue_each(bodies):
    asyncio.run(_enqueue(bodies))
