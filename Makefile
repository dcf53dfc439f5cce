# Two commands on a fresh machine with Python 3.11 to 3.13, make and git: `make demo` and `make
# test`.
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: setup demo test test-all ui lint

setup: $(VENV)/ready

# conda.yaml states the versions of what the product needs; pyproject.toml those of the tools for
# testing. Compiled once here, every command starts three times faster where Python may not write
# its own bytecode.
$(VENV)/ready: conda.yaml pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "Python 3.11 to 3.13 is needed, %s is %d.%d: make setup PYTHON=python3.12" % (sys.executable, *v))'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	sed -n 's/^ *- \([a-z0-9-]*==[^ ]*\)$$/\1/p' conda.yaml > $(VENV)/pins.txt
	$(VENV)/bin/uv pip install --compile-bytecode --python $(VENV)/bin/python --requirement $(VENV)/pins.txt --group dev
	touch $@

demo: setup
	mlflow run . -e demo --env-manager local

# One thread in each process: more threads would wait for each other. A process that dies ends the
# run with its test's name. For two cores, two processes; three where many tests wait for commands.
PYTEST := OMP_NUM_THREADS=1 pytest --dist loadfile --no-loadscope-reorder --max-worker-restart 0

test: setup
	$(PYTEST) -n 2 -m "not slow and not server and not browser and not database and not cluster"

test-all: setup
	$(PYTEST) -n 3 --durations 15 --durations-min 8

ui: setup
	mlflow ui

lint: setup
	ruff check .
	ruff format --check .
	ty check
