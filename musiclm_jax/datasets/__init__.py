"""Data sets: the built-in corpus of rendered scores, public ones, and anyone's folder."""
