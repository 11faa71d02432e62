# Two commands: `make demo` shows it, `make test` tests it. Both install what is missing on Debian 12.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test torture check docs bench lock clean
ARGS ?=
RUNS ?= 20
SEED ?= 1
BIN = $(shell scripts/place)/venv/bin

help:
	@echo "make demo [ARGS=...]   a whole organisation on this machine, a server dies, an audit (ARGS=\"--json FILE\")"
	@echo "make test [ARGS=...]   every test that this machine allows (ARGS are pytest's)"
	@echo "make torture [RUNS=20] [SEED=1]   mail load against faults of every kind, then every history is checked (root)"
	@echo "make check             lint, types, imports, size of files"
	@echo "make docs              links and names in the documentation"
	@echo "make bench [ARGS=...]  time of failover and switchover over many cuts"
	@echo "make setup             only install what demo and test need"

setup:
	@scripts/setup test

demo:
	@scripts/setup demo
	@scripts/demo $(ARGS)

test:
	@scripts/setup test
	@$(BIN)/python -m tests.halves $(ARGS)

torture:
	@scripts/setup test
	@$(BIN)/python -m tests.torture --runs $(RUNS) --seed $(SEED) $(ARGS)

check:
	@scripts/setup check
	@scripts/check

docs:
	@scripts/setup check
	@$(BIN)/python -m pytest -q tests/house

bench:
	@scripts/setup demo
	@PATH=$(BIN):$$PATH bench/failover $(ARGS)

# For maintainers: needs uv. Only wheels, no address of an index.
lock:
	scripts/lock

clean:
	rm -rf "$$(scripts/place)" build dist
