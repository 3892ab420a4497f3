"""Launchers: they start processes on several hosts, and all end in one line, `musiclm VERB ...`."""
