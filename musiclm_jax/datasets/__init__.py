"""Data sets of audio, the built-in corpus or a folder, and the token shards made of them."""
