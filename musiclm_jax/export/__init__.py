"""Bundles of trained parts for generation, and their licences."""
