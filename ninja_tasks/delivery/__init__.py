"""One delivery: what an answer means, the request itself, and the record of what happened."""
