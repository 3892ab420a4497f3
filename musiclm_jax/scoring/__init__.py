"""Scores of anyone's audio files, with intervals and specs, and the comparison of systems."""
