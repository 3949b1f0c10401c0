# Every command of this repository. `make` alone lists them.

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
FRAUDSTREAM := $(VENV)/bin/fraudstream
READY := $(VENV)/.ready

# Python 3.11 under whichever of its names is installed; another version has another lock.
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)

ARGS ?=
T ?=
ONCE ?=

.PHONY: help
help: ## List the commands.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 found; install it, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing what requirements.lock names into $(VENV), once; this takes some minutes ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock \
		|| { echo "the packages in requirements.lock could not be installed; connect to the network once and try again" >&2; exit 1; }
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

.PHONY: setup
setup: $(READY) ## Make .venv and install exactly what requirements.lock names (instant the second time).

.PHONY: test
test: $(READY) ## Run every test, with the embedded broker; T=words runs the tests so named, stopping at the first failure.
	$(PY) -m pytest $(if $(T),-x -q -k "$(T)",-n 3 --dist worksteal) $(ARGS)

.PHONY: fast
fast: $(READY) ## Run the tests that need no broker.
	$(PY) -m pytest -q -m "not broker and not slow" $(ARGS)

.PHONY: check
check: $(READY) ## Lint, formatting and types.
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

.PHONY: demo
demo: $(READY) ## See it work: broker, a shop's past, a model, a worker, live orders; ONCE=1 ends by itself.
	@$(FRAUDSTREAM) demo $(if $(ONCE),--once) $(ARGS)

.PHONY: record-demo
record-demo: $(READY) ## Record the demo from a fresh clone of what is committed, for docs/demo.md (5 min).
	$(PY) tests/docs/record_demo.py

.PHONY: broker-stop
broker-stop: $(READY) ## Stop the embedded broker if it runs.
	@$(FRAUDSTREAM) broker stop

.PHONY: simulate-faults
simulate-faults: $(READY) ## Try the transaction core against 50,000 seeded schedules of faults, in memory (5 min).
	$(PY) tests/faults/simulate.py --record $(ARGS)

.PHONY: chaos
chaos: $(READY) ## Kill, pause and wipe workers on a real broker, and count every order (11 min; ARGS=--compare adds stock Faust, ARGS=--entities stages, ARGS=--swaps models that change, or both).
	$(PY) tests/faults/chaos.py --record $(ARGS)

.PHONY: broker-kills
broker-kills: $(READY) ## Kill brokers under load, the only one and then of three each in its turn, and count every order (10 min).
	$(PY) tests/faults/broker_kills.py --nodes 1 --record $(ARGS)
	$(PY) tests/faults/broker_kills.py --nodes 3 --record $(ARGS)

.PHONY: rerun
rerun: $(READY) ## Decide the same raw orders by other workers and in other partitions, and count what differs (2 min).
	$(PY) tests/faults/rerun.py --record $(ARGS)

.PHONY: rebuild-kills
rebuild-kills: $(READY) ## Kill a rebuild of the rows fifty times, and hold what it makes against the old ones (5 min).
	$(PY) tests/faults/rebuild_kills.py --record $(ARGS)

.PHONY: archive-kills
archive-kills: $(READY) ## Kill an archiver 50 times while it writes, and hold its archive against the topics each time (15 min).
	$(PY) tests/faults/archive_kills.py --record $(ARGS)

.PHONY: registry-kills
registry-kills: $(READY) ## Kill a publisher of models 50 times, and offer its registry 10,000 broken files (10 min).
	$(PY) tests/faults/registry_kills.py --record $(ARGS)

.PHONY: faults
faults: simulate-faults chaos broker-kills ## All three: every promise held against faults.

.PHONY: real
real: $(READY) ## Send 622,892 real orders through publish, worker and decisions, and check each.
	$(PY) tests/bench/real.py $(ARGS)

.PHONY: bench-merchants
bench-merchants: $(READY) ## Hold what a worker decides with against the published features of 201,287 orders (ARGS=--orders N).
	$(PY) tests/bench/merchants.py $(ARGS)

.PHONY: parity
parity: $(READY) ## Hold rows against lists and for loops: 10,000 generated histories, then every order of two data sets, and by three entities (40 min).
	PARITY_HISTORIES=10000 $(PY) -m pytest -q -n 2 tests/parity $(ARGS)
	$(PY) tests/parity/real_data.py
	$(PY) tests/parity/real_entities.py

.PHONY: mutants
mutants: $(READY) ## Make known mistakes in the features and the stages, each of which a test must catch (8 min; ARGS=words of their names).
	$(PY) tests/parity/mutants.py --record $(ARGS)

.PHONY: bench-latency
bench-latency: $(READY) ## Measure order to visible decision at 200/s and 1,000/s (ARGS="--entities device,merchant": with stages too).
	$(PY) tests/bench/latency.py $(ARGS)

.PHONY: bench-service
bench-service: $(READY) ## Swap champions 50 times under 1,000 orders/s, look on with five models, and serve 300 versions of four kinds (8 min).
	$(PY) tests/bench/service.py $(ARGS)

.PHONY: bench-profile
bench-profile: $(READY) ## Measure the steps of one order, in microseconds.
	$(PY) tests/bench/profile.py $(ARGS)

.PHONY: bench-features
bench-features: $(READY) ## Measure an order's features at 10 to 1,000,000 past orders, and restore 1,000,000 rows (5 min).
	$(PY) tests/bench/features.py $(ARGS)

.PHONY: bench-registry
bench-registry: $(READY) ## Measure a list of 300 published models, and how long one is published.
	$(PY) tests/bench/registry.py $(ARGS)

.PHONY: bench-history
bench-history: $(READY) ## Load 1,000,000 past orders without deciding them, then decide live ones with that past (ARGS=--orders N).
	$(PY) tests/bench/history.py $(ARGS)

.PHONY: bench-archive
bench-archive: $(READY) ## Archive 622,892 orders, read them back and hold them against the topics (ARGS=--orders N).
	$(PY) tests/bench/archive.py $(ARGS)

.PHONY: bench-replay
bench-replay: $(READY) ## Replay the main data set: records, and orders through 30 and all served features (3 min).
	$(PY) tests/bench/replay.py $(ARGS)

.PHONY: bench-verify
bench-verify: $(READY) ## Decide 622,892 real orders under kills, then decide them all again and compare every byte.
	$(PY) tests/bench/verify.py $(ARGS)

.PHONY: accuracy
accuracy: $(READY) ## Learn from published, archived orders, and hold the models against published figures and planted leaks (30 min).
	$(PY) tests/bench/accuracy.py $(ARGS)

.PHONY: bench-learning
bench-learning: $(READY) ## Measure a training set of 622,892 orders, and a tree of models learned at once, serially and again (5 min).
	$(PY) tests/bench/learning.py $(ARGS)

.PHONY: bench-models
bench-models: $(READY) ## Hold models of every kind against their libraries, time them, damage their files, condense (10 min).
	$(PY) tests/bench/models.py --keep $(ARGS)

.PHONY: bench-own-data
bench-own-data: $(READY) ## Map, publish and decide every row of every data file, and count (6 min).
	$(PY) tests/bench/own_data.py $(ARGS)

.PHONY: ci-long
ci-long: $(READY) ## What .ci/run adds to the tests: a short simulation and a short chaos.
	$(PY) tests/faults/simulate.py --schedules 10000
	$(PY) tests/faults/chaos.py --short --gap-limit 60

.PHONY: contracts
contracts: $(READY) ## Write the JSON Schemas of the contracts to docs/contracts.
	$(FRAUDSTREAM) contracts export docs/contracts

.PHONY: lock
lock: ## Work out requirements.lock again from pyproject.toml (needs the network, takes minutes).
	$(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --quiet --disable-pip-version-check pip-tools==7.6.2
	CUSTOM_COMPILE_COMMAND="make lock" .lock-venv/bin/pip-compile --quiet --extra dev --all-build-deps --allow-unsafe \
		--generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
		--output-file requirements.lock pyproject.toml
	rm -rf .lock-venv

.PHONY: clean
clean: ## Stop the embedded broker and remove everything that make made (.venv, .fraudstream, caches).
	@if [ -x $(FRAUDSTREAM) ]; then $(FRAUDSTREAM) broker stop; fi
	rm -rf $(VENV) .lock-venv .fraudstream build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
