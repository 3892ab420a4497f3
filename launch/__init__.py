"""Launchers: each starts the same command, `musiclm VERB ...`, on several hosts."""
