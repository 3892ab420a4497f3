"""Random keys from seeds of up to 63 bits."""

import jax


def random_key(seed: int) -> jax.Array:
  """A typed key, another one for each seed from 0 to 2**63 - 1; jax itself uses only 32 bits."""
  high, low = divmod(seed, 2**32)
  key = jax.random.key(low)
  return jax.random.fold_in(key, high) if high else key
