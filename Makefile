# `make demo` runs everything, `make test` tests everything; both set up .venv first.
PYTHON ?= python3
BIN = .venv/bin
export JAX_PLATFORMS ?= cpu
PYTEST = $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-hf check compile clean

setup: .venv/done

.venv/done: requirements.lock requirements-listen.txt setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.8
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps \
	  -r requirements-listen.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch .venv/done

demo: setup
	$(BIN)/musiclm demo

test: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(PYTEST)

# What runs published checkpoints, with the extra [hf].
test-hf: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
	$(PYTEST) tests/test_pretrained*.py tests/test_parity*.py

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(PYTEST) -m "not slow"

# The lock file, after a change of setup.py.
compile: setup
	$(BIN)/uv pip compile setup.py --extra dev --python-version 3.11 --no-header \
	  --no-emit-index-url --no-annotate --quiet -o requirements.lock

clean:
	rm -rf .venv runs build *.egg-info .pytest_cache .ruff_cache
