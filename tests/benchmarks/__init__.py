"""What a delivered goal costs here and with other queues, measured in one run: ``make bench``."""
