"""The open JAX/Flax stack that trains and runs MusicLM (Agostinelli et al. 2023)."""

__version__ = "0.2.0"
