# Every target does its own set-up: a virtual environment in .venv with the package and what the target needs.
# A stamp file remembers what is installed, so that a second run starts at once.
#   make demo    segment the bundled photographs with the bundled model
#   make test    the quick tests, of every subject; make test-slow: the others; make test-all: both
#   make lint    ruff, mypy, imports  make format   let ruff rewrite the sources
#   make bench   speed of the operators, against torchvision
#   make lock    choose anew the releases that requirements/ names
#   make tables  write the tables of the pages from docs/results/
#   make docs    build the documentation in site/; warnings are errors
#   make clean   remove the virtual environment and what was built
# PYTHON=... chooses the interpreter, VENV=... the folder of the virtual environment, ARGS=... goes to pytest.

VENV ?= .venv
BIN := $(VENV)/bin
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3 python3.13 python3.12 python3.11 python)

.DEFAULT_GOAL := demo
.PHONY: demo test test-slow test-all lint format bench tables docs lock clean
# A step that fails leaves no stamp behind.
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/instancefcn demo --out demo-output

# Four at once need 12 GB at times.
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
# Markers of pyproject.toml.
SLOW = slow or browser or fuzz or distributed

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not ($(SLOW))" $(ARGS)

test-slow: $(VENV)/.installed-dev
	$(PYTEST) -m "$(SLOW)" $(ARGS)

test-all: $(VENV)/.installed-dev
	$(PYTEST) $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/ops.py

tables: $(VENV)/.installed
	$(BIN)/python tools/tables.py

# The variable leaves out an advertisement.
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# dev.lock: the newest releases, with their hashes, for every system and Python. oldest.txt: our lower bounds.
COMPILE = $(BIN)/uv pip compile pyproject.toml --extra dev --python-version 3.11 --no-emit-package instancefcn \
    --custom-compile-command 'make lock' --upgrade --quiet

lock: $(VENV)/.installed-dev
	$(COMPILE) --universal --generate-hashes --output-file requirements/dev.lock
	$(COMPILE) --resolution lowest-direct --no-annotate --output-file requirements/oldest.txt

clean:
	rm -rf $(VENV) build dist site demo-output .pytest_cache .mypy_cache .ruff_cache

# One that is there and works is taken as it is: it may be the user's own, with another build of PyTorch.
$(VENV)/.created:
	@if $(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    touch $@; exit 0; \
	fi; \
	for python in $(CANDIDATES); do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "Making $(VENV) with $$($$python --version)"; \
	        $$python -m venv --clear $(VENV) && touch $@ && exit 0; \
	        exit 1; \
	    fi; \
	done; \
	echo "Python 3.11 or newer was not found (looked for: $(CANDIDATES)). Install it, or say: make PYTHON=/path/to/python3.11"; \
	exit 1

# Editable, so that a change of the sources needs no new installation.
$(VENV)/.installed: $(VENV)/.created pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed
