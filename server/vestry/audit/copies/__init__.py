"""Copies of checkpoints outside: sinks, the spools before them, the threads that deliver, the comparison at the start.

Read `sink` first, then `couriers`.
"""
