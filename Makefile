# Everything here makes its own environment in .venv; all it needs is make and Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo demo-service test check format clean explore simulate mutants client-mutants callers-mutants soak service-soak bench

demo: .venv/demo.installed  ## balance transfer for real: workers are killed, the books are proved
	$(BIN)/python -m examples.balance_transfer chaos

demo-service: .venv/demo-service.installed  ## two servers, one killed in the middle of a payment
	$(BIN)/python -m examples.balance_transfer service

# Three processes on two cores: tests wait about as long as they compute.
test: .venv/dev.installed  ## all tests
	$(BIN)/python -m pytest -n 3 $(ARGS)

check: .venv/dev.installed  ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright

explore: .venv/dev.installed  ## every schedule of the small cases; without the four longest: make explore SHORT=1
	$(BIN)/python -m casops.testing explore $(if $(SHORT),--short)

SEEDS ?= 100000
simulate: .venv/dev.installed  ## many seeded worlds: make simulate SEEDS=n
	$(BIN)/python -m casops.testing simulate --seeds $(SEEDS)

mutants: .venv/dev.installed  ## each rule broken once: does anything notice?
	$(BIN)/python -m tests.mutants

MINUTES ?= 60
soak: .venv/dev.installed  ## real processes, killed with SIGKILL: make soak MINUTES=n
	$(BIN)/python -m casops.testing soak --minutes $(MINUTES)
	$(BIN)/python -m casops.testing simulate --first 1000000 --seeds $$(( $(MINUTES) * 5000 ))

bench: .venv/bench.installed  ## beside other systems, in one run: make bench; only whether it works and counts: make bench SHORT=1
	$(BIN)/python -m benchmarks $(if $(SHORT),--short) $(PARTS)

TRANSFERS ?= 10000
service-soak: .venv/dev.installed  ## three servers, eight clients, a network that misbehaves: make service-soak TRANSFERS=n
	$(BIN)/python -m tests.service_soak --transfers $(TRANSFERS) $(ARGS)

client-mutants: .venv/dev.installed  ## each rule of the client broken once
	$(BIN)/python -m tests.mutants.client

callers-mutants: .venv/dev.installed  ## each rule of what lies between fronts and a file broken once
	$(BIN)/python -m tests.mutants.callers

format: .venv/dev.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache

.venv/%.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "casops needs Python 3.11 or newer; this is " + sys.version + ". Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
