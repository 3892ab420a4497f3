"""The open JAX/Flax stack that trains and runs MusicLM (Agostinelli et al. 2023)."""

__version__ = "0.2.0"


def __getattr__(name: str):
  if name == "MusicLM":  # loads JAX, which `import musiclm_jax` does not
    from musiclm_jax.music import MusicLM

    return MusicLM
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
