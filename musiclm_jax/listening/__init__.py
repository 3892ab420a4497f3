"""Listening tests: a page of pairs of clips for people to compare, and what their answers say."""
