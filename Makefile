# Needs Python 3.11 or later, pip and make; everything else goes into .venv.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
BENCHED := .venv/installed-bench

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz bench clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## the whole story on handwritten digits, in minutes; writes demo/report.html
	$(BIN)/securefd demo -o demo

test: $(INSTALLED)  ## lint, format and type checks, then all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

fuzz: $(INSTALLED)  ## every dropout pattern and 200,000 bad messages against the masked protocol, in minutes
	$(BIN)/python -m pytest -n 2 --dist worksteal -m fuzz -rP

bench: $(BENCHED)  ## figures of benchmarks/RESULTS.md; ONLY=name for one, MNIST=folder of its IDX files
	$(BIN)/python -m benchmarks $(if $(ONLY),--only "$(ONLY)") $(if $(MNIST),--mnist "$(MNIST)")

clean:  ## remove the environment, the demo and caches
	rm -rf .venv demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Where Python comes without ensurepip, the pip at hand installs one.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "securefd needs Python 3.11 or later: name one, as in make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv --clear .venv || { $(PYTHON) -m venv --clear --without-pip .venv && \
	$(PYTHON) -m pip --python $(BIN)/python install pip; }
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# Kept apart, so that tests don't need what is only compared with.
$(BENCHED): $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	@touch $@
