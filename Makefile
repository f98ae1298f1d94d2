# Each target sets everything up by itself (a .venv and the install), once; the second time it is fast.
#   make demo   the main job on data in the package      make test   all tests
#   make lint   ruff, mypy and the imports               make bench  the benchmarks (quiet machine, please)
#   make docs   the documentation as HTML in site/       make coverage  the tests with their coverage
#   make clean  remove what the others made

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
NPROC  := $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 2)

.PHONY: demo test lint bench docs clean install coverage
install: $(STAMP)

# Reinstalled when the dependencies or the compiled sources change; Python files need nothing (editable install).
$(STAMP): pyproject.toml setup.py $(wildcard mixaug_ext/csrc/*)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --version >/dev/null
	@echo "Installing mixaug and what it needs into $(VENV) (the first time: about 5 GB, 5 to 10 minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[train,attacks,timm,dev,bench,docs]"
	@touch $@

demo: $(STAMP)
	@$(BIN)/mixaug demo

# One process a core, each with one thread, so that processes and threads do not fight over the cores.
test: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(NPROC) --dist worksteal

# Two passes: all tests, then those of the numba kernels as plain Python on tiny inputs, so that their lines count too.
coverage: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(NPROC) --dist worksteal --cov --cov-report=
	@NUMBA_DISABLE_JIT=1 MIXAUG_NO_EXT=1 $(BIN)/python -m pytest -q tests/mixing_sets/test_fractals.py tests/evaluate/corruptions/test_corruptions.py -k "known_pixels or odd_sizes or glass" \
	    --cov --cov-append --cov-report=term:skip-covered

lint: $(STAMP)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-cache

bench: $(STAMP)
	@$(BIN)/python -m pytest benchmarks --benchmark-only -o python_files='bench_*.py' -o python_functions='bench_* test_*'

docs: $(STAMP)
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs site && echo "Documentation: site/index.html"

clean:
	rm -rf build dist site runs *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .benchmarks
