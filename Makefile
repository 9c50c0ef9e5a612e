PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint types kernels setup clean

demo: setup  ## the main job end to end on built-in structures, with pictures in runs/demo
	$(BIN)/gpuediff demo

test: setup  ## the whole CPU test suite
	$(BIN)/python -m pytest -n $(shell nproc) -q

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

kernels:  ## every kernel compiles for Ampere, Hopper and Blackwell (needs nvcc, no GPU)
	@for kernel in kernels/*.cu; do for arch in sm_80 sm_90 sm_100; do \
		echo "nvcc $$arch $$kernel"; nvcc -std=c++17 -arch=$$arch -cubin -o /dev/null $$kernel || exit 1; \
	done; done

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "gpuediff needs Python 3.11 to 3.13; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) runs build dist
