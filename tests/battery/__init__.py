"""An ordinary shop's Celery application, with and without ``install(app)``, side by side: whatever
it does of its own must be the same.
"""
