#!/usr/bin/env bash
# How fast one CUDA GPU trains the coarse stage at paper size, by setting: see benchmarks/gpu.py.
#
#   bash benchmarks/gpu.sh [--minutes=9] [--only=base,attention=cudnn,...]
#
# Needs a python3 (or PYTHON=...) with jax for CUDA, flax, optax, orbax and numpy, and torch for the
# comparison. Downloads nothing. Prints a JSON line per setting; the last line has all of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
