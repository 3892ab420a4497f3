#!/usr/bin/env bash
# How fast one CUDA GPU trains the coarse stage at paper size, and what makes it so: benchmarks/gpu.py.
#
#   bash benchmarks/gpu.sh [--minutes=9] [--only=base,attention=cudnn,...]
#
# Needs a python3 with jax for CUDA, flax, optax, orbax and numpy, and, to be measured beside, torch;
# PYTHON=... names another. Fetches nothing. A JSON line a setting, the last line is all of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
