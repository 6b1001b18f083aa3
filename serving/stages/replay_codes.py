"""Codes of the routing policies that the replay decides request by request; 0: drawn by the probabilities."""

ROUND_ROBIN, SHORTEST_QUEUE, LEAST_WORK, PREFIX, USER = range(1, 6)
