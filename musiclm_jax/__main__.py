"""`python -m musiclm_jax VERB`; gin must know main by its own name, not as `__main__`."""

from musiclm_jax import main

main.entry()
