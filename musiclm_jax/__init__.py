"""The open JAX/Flax stack that trains and runs MusicLM (Agostinelli et al. 2023)."""
