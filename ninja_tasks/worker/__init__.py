"""What runs in a worker beside the task."""
