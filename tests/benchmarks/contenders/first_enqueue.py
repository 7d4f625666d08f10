"""The first goal of a fresh process: ``python first_enqueue.py MODULE`` imports and enqueues it."""

import importlib
import sys

from goals import bodies

if __name__ == "__main__":
    importlib.import_module(sys.argv[1]).enqueue_each(bodies(1))
