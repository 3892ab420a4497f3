"""The one trainer and what feeds it."""
