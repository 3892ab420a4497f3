"""Models that turn audio into embeddings, classes and agreement with texts, to measure with."""
