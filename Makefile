# make demo    install into .venv, run the demonstration study, print its table and where the report is
# make test    install with the dev extra; linters, types, import contracts, tests
# make test-runs    whole runs by several agents, over ssh on this machine, or out of their shell (27 minutes at most)
# make test-hosts   what happens between hosts, on a bed of four that it makes (root, Linux; 15 minutes at most)
# make test-faults  kills at random moments, full disks, damaged files (6 minutes; FAULTS_SEED, FAULTS_MINUTES)
# make fuzz    hostile input for every reader (FUZZ_MINUTES, 5 if not given)
# make soak    500 trials in one process tree: nothing may grow (6 minutes)
# make bench   what the program costs beside what a user would write instead (15 minutes)
# VENV=path reuses an environment, for instance one that has torch already.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-runs test-hosts test-faults fuzz soak bench
.DELETE_ON_ERROR:

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One stamp an extra: installed again when what is asked for has changed.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.$(if $(filter-out core,$*),[$*])'
	touch $@

demo: $(VENV)/.installed-core
	$(BIN)/paceline run studies/demo.toml

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -m 'not hosts and not runs and not faults and not soak'

test-runs: $(VENV)/.installed-dev
	$(BIN)/pytest -m runs --session-timeout=1620

# Two beds side by side: much of it is waiting.
test-hosts: $(VENV)/.installed-dev
	$(BIN)/pytest -m hosts -n 2 --dist worksteal --session-timeout=900 tests/hosts

# A module is one worker's: its tests share a run. Much of it is waiting, too.
test-faults: $(VENV)/.installed-dev
	$(BIN)/pytest -m faults -n 2 --dist loadfile --session-timeout=660 tests/faults

fuzz: $(VENV)/.installed-dev
	FUZZ_MINUTES=$${FUZZ_MINUTES:-5} $(BIN)/pytest tests/fuzz

soak: $(VENV)/.installed-dev
	$(BIN)/pytest -m soak tests/soak

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks
