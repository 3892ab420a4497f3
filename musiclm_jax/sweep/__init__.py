"""Sweeps: the same commands for every point of a product of values, and a page of what came."""
