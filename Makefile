.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check bench lock rknn clean setup

# The installation leaves it to Python to compile what is imported. Where it may not keep that, each of the hundreds of
# processes that demo and tests start compiles it anew: `import torch` then takes twice as long.
unexport PYTHONDONTWRITEBYTECODE

PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
# pytest's own options: make test ARGS="tests/house -k wheel"
ARGS ?=

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## three devices, two models, two rollouts, on this machine; ends by itself
	@tooling/setup.sh --demo
	@$(PYTHON) -m examples.demo

# loadfile: tests of one file share a worker, so a broker or a store that a file starts is started once. In the order of
# the folders: sorted by number the few long tests of whole fleets would be left for the end, one worker busy, the rest idle.
# Three workers for two cores, since tests of processes mostly wait.
test: setup ## every test but the slow ones
	$(PYTEST) -n 3 --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

test-slow: setup ## the slow tests
	$(PYTEST) -m slow $(ARGS)

# All three run, so that one try shows everything.
check: ## lint, formatting and types
	@tooling/setup.sh --python
	@failed=0; \
	for tool in "ruff check" "ruff format --check" mypy; do \
	  echo "== $$tool"; $(PYTHON) -m $$tool || failed=1; \
	done; exit $$failed

bench: setup ## every benchmark, one after the other
	@failed=0; for file in benchmarks/*.py; do \
	  echo "== $$file"; $(PYTHON) -m "benchmarks.$$(basename "$$file" .py)" || failed=1; \
	done; exit $$failed

setup: ## what the others do first: Debian packages and Python environments
	@tooling/setup.sh

lock: ## write requirements/ from pyproject.toml; UPGRADE=1 takes newer versions
	@tooling/setup.sh --python
	$(PYTHON) tooling/lock.py $(if $(UPGRADE),--upgrade)

rknn: ## an environment with Rockchip's compiler, .venv-rknn; ends with the reason where that can't be
	@tooling/rknn.sh

clean: ## remove the environments and everything that was built
	rm -rf .venv .venv-tflite .venv-rknn .venv-rknn.log .venv*.under-way .setup.log .setup.lock .demo build dist *.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
