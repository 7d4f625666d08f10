"""Dead letters: what could not be delivered, who is told of it, and how it is sent again."""
