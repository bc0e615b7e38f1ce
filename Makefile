# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1
export RAY_USAGE_STATS_ENABLED = 0

.PHONY: demo test check soak benchmarks results selection format clean

demo: .venv/installed
	$(BIN)/iodeep demo

test: check

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -m "not soak" --numprocesses auto --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder

soak: .venv/installed
	$(BIN)/pytest -m soak --timeout 3600 --numprocesses 2 --dist loadfile --no-loadscope-reorder

# make benchmarks DATA=FOLDER: the table in docs/benchmarks.md; phantoms without DATA.
benchmarks: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[benchmarks]'
	$(BIN)/python -m benchmarks --data $(or $(DATA),phantom)

# make results DATA=FOLDER: federated, centralised and local, three seeds, in docs/results.md.
results: .venv/installed
	$(BIN)/python -m benchmarks.results $(DATA)

# make selection: how often the right network is chosen, in docs/selection.md.
selection: .venv/installed
	$(BIN)/python -m benchmarks.selection

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The order matters: with torch there, the rest does not look for another build of it.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache
