# Every target does its own set-up. `make demo` shows the product, `make test` proves it.
.PHONY: demo test soak differential crash-matrix setup setup-tests lint types format bench lock clean

BIN := .venv/bin
PYTEST_ARGS ?=

demo: setup
	@$(BIN)/lbprov demo

test: setup-tests lint types
	$(BIN)/pytest $(PYTEST_ARGS)

# Outages of a minute, kills by the dozen, hostile Services by the thousand: about half an hour.
soak: setup-tests
	$(BIN)/pytest -m soak --timeout 3600 $(PYTEST_ARGS)

# AWS: killed before and after every single call of every change; a table of what is left. Some minutes.
crash-matrix: setup-tests
	$(BIN)/pytest tests/aws/test_aws_crash_matrix.py -m soak --timeout 3600 -q $(PYTEST_ARGS)

# Our node agent beside the real kube-proxy: the same objects, the same packets, from every vantage point.
CASES ?= 200
SEED ?= 1
differential: setup-tests
	$(BIN)/python -m lbprov.lab.differential --cases $(CASES) --seed $(SEED)

setup:
	@scripts/setup.sh

setup-tests:
	@scripts/setup.sh tests

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Ratios against a baseline of the same run: a machine's mood cancels out.
bench: setup
	$(BIN)/python -m bench

# After a change of dependencies in pyproject.toml.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --custom-compile-command "make lock"
IMAGE = deploy/image
lock: setup
	$(LOCK) --all-extras --group dev pyproject.toml -o requirements.txt
	$(LOCK) --extra aws -c requirements.txt pyproject.toml -o $(IMAGE)/requirements.txt
	sed -n 's/^requires = \["\(.*\)"\]$$/\1/p' pyproject.toml | \
	    $(LOCK) -c requirements.txt - -o $(IMAGE)/build-requirements.txt

clean:
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
