"""Settings of ``celery -A ninja_tasks worker`` when it is started in this directory.

Every setting has a default in the package, so this file may be empty or absent: it only overrides.
A setting here wins over the environment variable that is named beside it. Secrets, such as a URL
with a password, belong into the environment.

Of the package
    ``ninja_api_url = "https://api.sales-ninja.me"`` (``NINJA_API_URL``)
        Base URL of the Sales Ninja API; the path is fixed.
    ``ninja_redis_url``, by default the broker's URL if that is Redis (``NINJA_REDIS_URL``)
        Redis that holds all state but the queue: the ledger, the limit, the breaker, parked goals
        and dead letters. Must be set if the broker is not Redis.
    ``ninja_rate_limit = "50/s"`` (``NINJA_RATE_LIMIT``)
        How many goals all workers together may send: ``"N/s"``, ``"N/m"``, ``"N/h"`` or ``"none"``.
        No second has more than that and a tenth of a second's worth. If workers have different
        limits, that of the one which started last holds for all.
    ``ninja_concurrency = None`` (``NINJA_CONCURRENCY``)
        Goals that one worker sends at once. By default, as many as its pool has slots; where it
        serves other queues too, half of them.
    ``ninja_connect_timeout_seconds = 3.05`` (``NINJA_CONNECT_TIMEOUT_SECONDS``)
        Longest wait for a connection to the API.
    ``ninja_read_timeout_seconds = 27.0`` (``NINJA_READ_TIMEOUT_SECONDS``)
        Longest silence of the API after the request was sent. A stopping worker may need this long.
    ``ninja_publish_timeout_seconds = 5.0`` (``NINJA_PUBLISH_TIMEOUT_SECONDS``)
        How long enqueueing waits for a broker that does not answer; then it raises
        ``PublishError``.
    ``ninja_max_attempts = 16`` (``NINJA_MAX_ATTEMPTS``)
        Failed attempts after which a goal becomes a dead letter; a 429 does not count.
    ``ninja_max_age_seconds = 604800.0`` (``NINJA_MAX_AGE_SECONDS``)
        Age since enqueueing beyond which a goal is not sent any more but becomes a dead letter.
    ``ninja_on_unknown = "retry"`` (``NINJA_ON_UNKNOWN``)
        What to do when a request may have been counted, because no clear answer came:
        ``"retry"`` risks that a conversion counts twice, ``"dead_letter"`` lets a person decide.
    ``ninja_breaker_threshold = 5`` (``NINJA_BREAKER_THRESHOLD``)
        Failures in a row, of all workers, after which none of them sends goals for a while.
    ``ninja_breaker_cooldown_seconds = 5.0`` (``NINJA_BREAKER_COOLDOWN_SECONDS``)
        How long that is; then one goal is tried, and the time doubles, up to 60 seconds.
    ``ninja_ledger_ttl_seconds = 604800`` (``NINJA_LEDGER_TTL_SECONDS``)
        How long a delivered goal is remembered.
    ``ninja_sentry_dsn = None`` (``NINJA_SENTRY_DSN``, else ``SENTRY_DSN``)
        Sentry project that hears of dead letters. Without it they are stored and logged.
    ``ninja_trust_env = False`` (``NINJA_TRUST_ENV``)
        Whether requests to the API obey HTTPS_PROXY, NO_PROXY and REQUESTS_CA_BUNDLE.
    ``ninja_key_prefix = "ninja:"`` (``NINJA_KEY_PREFIX``)
        Start of the name of every key in Redis.
    ``ninja_transport = "crash-safe"`` (``NINJA_TRANSPORT``)
        How workers take goals from Redis: crash-safe, or stock for Celery's own way.
    ``ninja_strict = False`` (``NINJA_STRICT``)
        Whether a worker refuses to start where the check command finds a fault.
    ``ninja_liveness_file = None`` (``NINJA_LIVENESS_FILE``)
        File that a worker touches every two seconds while it is well, for health checks.

Of Celery, with the package's own defaults
    ``broker_url = "redis://localhost:6379/0"`` (``CELERY_BROKER_URL``, which wins)
        The broker: Redis, Valkey or RabbitMQ.
    ``broker_connection_max_retries = None``
        A worker never gives up on a broker that is away.
    ``broker_connection_retry_on_startup = True``
        Not at its start either.
    ``broker_channel_error_retry = True``
        Nor on one that refuses a queue for a while, as RabbitMQ does after the loss of a node.
    ``worker_cancel_long_running_tasks_on_connection_loss = False``
        A request that is under way is finished when the broker is lost.
    ``worker_enable_prefetch_count_reduction = False``
        What goes on after a lost connection takes room of itself.
    ``worker_prefetch_multiplier = 4``
        Messages that a worker holds for each of its threads or processes. With a few in all it
        waits for messages more than it delivers.
    ``task_default_queue = "ninja_tasks"``, ``task_create_missing_queues = False``
        This application has one queue.
    ``task_ignore_result = True``, ``accept_content = ["json"]``
        No result backend is needed, and nothing but JSON is accepted.
"""
