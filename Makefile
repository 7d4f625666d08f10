# make demo and make test need nothing but Python 3.11 to 3.13 and make.
.DEFAULT_GOAL := help
SHELL := /bin/bash

VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints.txt
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)
# Versions of Celery, each with the other libraries of its time.
PAIRS ?= 5.4 5.5 5.6 5.7
# Where a test may last, nobody asks after five minutes where it is.
LASTING := -s -o faulthandler_timeout=0
# Most tests wait for servers and workers, so that a processor can run more than one of them.
AT_ONCE := -n $(or $(JOBS),3) --dist loadfile
USABLE := import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c '$(USABLE)' 2>/dev/null && echo $$name && break; done)

.PHONY: help demo test stress soak bench battery rabbitmq clusters unit matrix pair lint format clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/demo ## watch a few hundred goals travel, on real parts
	@$(BIN)/ninja-tasks demo

test: $(VENV)/dev ## run every test, several files at once: about ten minutes
	$(BIN)/python -m pytest $(AT_ONCE)

stress: $(VENV)/dev ## run the faults, floods and limits in full size: about half an hour
	NINJA_STRESS=1 $(BIN)/python -m pytest tests/acceptance/faults tests/stress --timeout=1800 $(LASTING)

soak: $(VENV)/dev ## kill workers and Redis at random for half an hour
	NINJA_SOAK_MINUTES=30 $(BIN)/python -m pytest tests/stress/test_soak.py --timeout=2400 $(LASTING)

bench: $(VENV)/dev ## measure what a goal costs, beside other queues: half an hour; QUICK=1: three minutes
	@PYTHONPATH=tests QUICK=$(QUICK) ROUNDS=$(ROUNDS) $(BIN)/python -m benchmarks

rabbitmq: $(VENV)/dev ## run the tests that need Debian's rabbitmq-server
	$(BIN)/python -m pytest tests/rabbitmq

battery: $(VENV)/dev ## run a shop's own tasks with and without install: a quarter of an hour; QUICK=1: five minutes
	NINJA_STRESS=$(if $(QUICK),,1) $(BIN)/python -m pytest tests/battery \
		-n $(or $(JOBS),3) --dist loadgroup --timeout=300

clusters: $(VENV)/dev ## kill and stop nodes of a RabbitMQ cluster on this machine: a quarter of an hour
	NINJA_STRESS=1 $(BIN)/python -m pytest tests/clusters --timeout=1800 $(LASTING)

unit: $(VENV)/dev ## run the tests that need no server
	$(BIN)/python -m pytest tests/unit $(AT_ONCE)

matrix: ## run unit, integration and delivery tests with Celery 5.4 to 5.7: a quarter of an hour; PAIRS=5.4: the oldest
	@rm -rf .matrix && mkdir .matrix
	@failed=0; for pair in $(PAIRS); do \
		$(MAKE) --no-print-directory pair VENV=.venv-matrix-$$pair PAIR=$$pair \
			CONSTRAINTS=constraints-matrix/celery-$$pair.txt || failed=1; \
	done; \
	awk '!shown[$$0]++' .matrix/*; exit $$failed

pair: $(VENV)/dev
	@echo "== Celery $(PAIR)"
	NINJA_MATRIX_ROW=.matrix/$(PAIR) $(BIN)/python -m pytest tests/unit tests/integration tests/matrix \
		--continue-on-collection-errors

lint: $(VENV)/dev ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev ## mend the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the virtual environment and the caches
	rm -rf $(VENV) $(VENV)-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.bench .matrix

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 with venv is needed: install one" \
		"(Debian: apt-get install python3-venv), or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Making a virtual environment in $(VENV) with $(PYTHON) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/demo: $(VENV)/bin/python pyproject.toml constraints.txt $(CONSTRAINTS)
	@echo "Installing ninja-tasks with an embedded Valkey ..."
	@$(INSTALL) -e '.[demo]'
	@touch $@

$(VENV)/dev: $(VENV)/bin/python pyproject.toml constraints.txt $(CONSTRAINTS)
	@echo "Installing ninja-tasks with all that its development needs ..."
	@$(INSTALL) -e '.[dev,demo]'
	@touch $@
