# Every target does its own set-up. `make demo` shows the product, `make test` proves it.
.PHONY: demo test soak setup lint types format bench lock clean

BIN := .venv/bin
PYTEST_ARGS ?=

demo: setup
	@$(BIN)/lbprov demo

test: lint types
	$(BIN)/pytest $(PYTEST_ARGS)

# Outages of a minute, kills by the dozen, hostile Services by the thousand: about half an hour.
soak: setup
	$(BIN)/pytest -m soak --timeout 3600 $(PYTEST_ARGS)

setup:
	@scripts/setup.sh

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
lock: setup
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --all-extras \
	    --group dev --no-emit-index-url pyproject.toml -o requirements.txt

clean:
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
