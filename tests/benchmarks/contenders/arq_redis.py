"""arq on Redis: asyncio with aiohttp."""

import asyncio
import os

import aiohttp
from arq import create_pool
from arq.connections import RedisSettings

BROKER = RedisSettings.from_dsn(os.environ["BENCH_BROKER"])
URL = os.environ["BENCH_API"] + "/outer/v1.0/goal/reach"


async def startup(context):
    context["session"] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


async def shutdown(context):
    await context["session"].close()


async def reach(context, body):
    async with context["session"].post(URL, json=body) as response:
        response.raise_for_status()
        await response.read()


class WorkerSettings:
    functions = (reach,)
    redis_settings = BROKER
    on_startup = startup
    on_shutdown = shutdown
    max_jobs = int(os.environ.get("BENCH_CONCURRENCY", "10"))
    max_tries = 10
    keep_result = 0
    # Its default of half a second would be all that this benchmark sees.
    poll_delay = 0.02


async def _enqueue(bodies):
    pool = await create_pool(BROKER)
    for body in bodies:
        await pool.enqueue_job("reach", body)
    await pool.aclose()


def enqueue_each(bodies):
    asyncio.run(_enqueue(bodies))
