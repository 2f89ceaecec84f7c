# The commands of a checkout. Each one that needs the virtual environment makes it first, when the lock changed.
#   ACCELERATOR=cuda takes the CUDA packages; PYTHON=/path/to/python3.11 chooses the interpreter.

ACCELERATOR ?= cpu
PYTHON ?= $(firstword $(shell for python in python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo $$python; done))
GATEHOUSE = .venv/bin/gatehouse

.PHONY: help set-up demo test test-all clean

help:
	@echo "make demo     the main job on simulated logs: preprocess, train, evaluate, score"
	@echo "make test     format, lint, types, tests: about 15 minutes on 2 cores"
	@echo "make test-all the same with the exhaustive tests and the coverage"
	@echo "make set-up   only the virtual environment .venv, from infra/locks"
	@echo "make clean    remove .venv, caches and the demo's files"
	@echo "Add ACCELERATOR=cuda to take the CUDA packages."

set-up:
	@test -n "$(PYTHON)" || { echo "Gatehouse needs Python 3.11: neither python3.11 nor python3 is one." \
		"Install it, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; }
	@"$(PYTHON)" infra/set_up.py --accelerator "$(ACCELERATOR)"

demo: set-up
	$(GATEHOUSE) simulate --out runs/demo-data --rows 700000 --seed 1 --overwrite
	$(GATEHOUSE) run --config jobs/configs/demo.yaml --overwrite

test: set-up
	@infra/check.sh -m "not exhaustive"

test-all: set-up
	@infra/check.sh --cov --cov-report=term:skip-covered

clean:
	rm -rf .venv *.egg-info build .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache runs/demo runs/demo-data runs/demo-registry
	find pipeline models jobs tests infra -name __pycache__ -type d -prune -exec rm -rf {} +
