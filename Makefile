# Job Dispatcher: `make demo` shows it, `make test` checks it. Both bring everything they need but Python, Go and make.
# ARGS are handed to the command behind a target, as in: make bench ARGS="--jobs 50"

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

ARGS ?=
PY := .venv/bin/python

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: venv
venv:
	@hack/setup/venv

.PHONY: setup
setup: venv ## Make .venv and the local control planes' binaries
	@$(PY) -m hack.lab build

.PHONY: demo
demo: setup ## Show a Job split over local clusters, live
	@$(PY) -m hack.demo $(ARGS)

.PHONY: lint
lint: venv ## Style, formatting, types, import rules
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports

.PHONY: test
test: setup lint prometheus nodes ## Lint and every suite's short form, on real API servers
	$(PY) -m pytest $(ARGS)

.PHONY: test-chart
test-chart: setup ## Charts, accounts, joining and policies on real API servers
	$(PY) -m pytest tests/chart $(ARGS)

.PHONY: prometheus
prometheus:
	@hack/setup/prometheus

.PHONY: nodes
nodes: setup
	@$(PY) -m hack.lab build --kubelet
	@hack/setup/redis

.PHONY: test-e2e
test-e2e: nodes ## Jobs whose pods truly run: a kubelet with containerd on each worker (Linux, root)
	$(PY) -m pytest tests/e2e $(ARGS)

.PHONY: test-observability
test-observability: setup prometheus ## Metrics, alerts and dashboards against a real Prometheus
	$(PY) -m pytest tests/observability $(ARGS)

.PHONY: lab
lab: setup ## Local control planes: make lab ARGS="up --workers 2" (or: down, status)
	@$(PY) -m hack.lab $(or $(ARGS),status)

.PHONY: bench
bench: setup ## Measure, print a table, write build/bench.json
	@$(PY) -m hack.bench $(ARGS)

.PHONY: bench-logs
bench-logs: setup ## Logs through the API beside kubectl logs on one worker; writes build/bench-logs.json
	@$(PY) -m hack.bench.logs $(ARGS)

.PHONY: conformance
conformance: setup ## Every Job feature, dispatched and by the built-in controller: equal or documented
	@$(PY) -m hack.conformance $(ARGS)

.PHONY: simulate
simulate: setup ## Random histories of crashes and faults against the invariants
	@$(PY) -m hack.simulate $(ARGS)

.PHONY: generate
generate: venv ## Write what is made of other files: chart READMEs, worker manifest, rights table
	@$(PY) -m hack.generate

.PHONY: chaos
chaos: setup ## 300 Jobs while parts of the clusters are killed, hung, cut off (ARGS="--isolation": p99 with one hung)
	@$(PY) -m hack.chaos $(ARGS)

.PHONY: kind-up
kind-up: venv ## With docker: three kind clusters, the chart installed, the workers joined
	@hack/kind/up

.PHONY: kind-down
kind-down: ## Remove the kind clusters
	@hack/kind/down

.PHONY: pictures
pictures: setup ## Record the documentation's pictures of kubectl dispatch on local clusters
	@$(PY) -m hack.pictures $(ARGS)

.PHONY: lock
lock: venv ## Lock the development packages anew (ARGS=--upgrade for newer ones)
	@hack/setup/lock $(ARGS)

.PHONY: clean
clean: ## Stop the labs of this directory, remove what was made here (not the cache of binaries)
	@if [ -x $(PY) ]; then for lab in .lab*; do if [ -d "$$lab" ]; then $(PY) -m hack.lab down --dir "$$lab"; fi; done; fi
	rm -rf .venv .lab* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
