# Everything runs in .venv, which the first target that needs it makes. PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PIP := -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-fast test-oldest test-newest lint format docs bench dist check-dist clean

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lipcert needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) --constraint constraints.txt --editable '.[dev]' \
		|| { echo 'The packages could not be installed. Offline, point PIP_FIND_LINKS at a folder of wheels and set PIP_NO_INDEX=1.'; exit 1; }
	@touch $@

demo: $(READY) ## train the quickstart on the embedded data, audit it, print where the report is
	run=demo-$$(date +%Y%m%d-%H%M%S) \
		&& $(BIN)/python -m lipcert.train --name $$run --output runs \
		&& $(BIN)/python -m lipcert.audit runs/$$run

# One thread each: processes that share cores with more threads than those wait for one another.
PYTEST := -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal
test test-fast test-oldest test-newest: export OMP_NUM_THREADS := 1

test: $(READY) ## every test
	$(BIN)/python $(PYTEST)

test-fast: $(READY) ## the tests that take seconds
	$(BIN)/python $(PYTEST) -m 'not slow'

# The same with the oldest packages that pyproject.toml allows, whose newer neighbours deprecate what they do, and with
# the newest that there are; each in an environment of its own. ONLY='tests/data tests/report' runs a part.
test-oldest: OPTIONS := --constraint constraints-oldest.txt
test-oldest: WARNINGS := -W ignore::DeprecationWarning
test-oldest test-newest: test-%:
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python $(PIP) --upgrade --upgrade-strategy eager $(OPTIONS) --editable '.[test]'
	.venv-$*/bin/python $(PYTEST) -m 'not slow' $(WARNINGS) $(ONLY)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: .venv/.docs ## the documentation as a site, in site/; refuses broken links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo site/index.html

.venv/.docs: $(READY)
	$(BIN)/python $(PIP) --constraint constraints.txt --editable '.[docs]'
	@touch $@

bench: $(READY) ## lipcert beside what a user would pick instead: training, bounds, constraints, precision, attacks
	$(BIN)/python benchmarks/training_loop.py
	$(BIN)/python benchmarks/lipschitz_bound.py
	$(BIN)/python benchmarks/constraint_cost.py --rounds 3
	$(BIN)/python benchmarks/time_to_quality.py
	$(BIN)/python benchmarks/precision.py
	$(BIN)/python benchmarks/attack_distances.py
	$(BIN)/python benchmarks/autoattack.py --images 16 --rounds 2
	$(BIN)/python benchmarks/patch_certificates.py

dist: $(READY) ## the source archive and, built from it, the wheel under dist/, from which lipcert installs anywhere
	rm -rf dist
	$(BIN)/python -m build --no-isolation .

check-dist: dist ## the wheel alone in an environment of its own: commands start, a shipped network certifies an image
	$(PYTHON) -m venv --clear .venv-dist
	.venv-dist/bin/python $(PIP) --constraint constraints.txt dist/*.whl
	cd .venv-dist && bin/lipcert --help && bin/python -m lipcert.train --help > train.txt && bin/python -c "$$CERTIFY"

define CERTIFY
import lipcert
from lipcert.data import FashionMNISTMini

image = FashionMNISTMini().split("test").inputs()[:1]
print(lipcert.__file__, lipcert.certify(lipcert.load("mnist/robust"), image).radius.item())
endef
export CERTIFY

clean:
	rm -rf .venv* build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
