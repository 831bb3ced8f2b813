# make test     lint, types and the whole test suite, from a fresh clone on
# make suite    the tests alone; PYTEST_ARGS="tests/protocol -x" is handed to pytest
# make lint     style: ruff's rules and its formatter
# make types    mypy --strict, as for the oldest Python it knows and as for the newest
# make format   let ruff repair what it can
# make single   build the single file, pixie_web.py, from the chapters of the package
# make bench    measure this and its peers side by side, in an environment of its own, twice;
#               BENCH_ARGS="--rounds 5 --seconds 2" is handed to bench/run.py
# make docs     build the documentation as a site, into site/; each link is checked
# make dist     build what a release consists of into dist/: sdist, wheel, single file
# make clean    remove everything that the other targets made
#
# PYTHON=python3.8 selects the interpreter, VENV=dir where its environment is kept,
# EXTRAS=test,fast what is installed into it. PIXIE_SHAPE=single has the tests run on the
# single file in place of the package.

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= test
PYTEST_ARGS ?=
BENCH_VENV ?= .venv-bench
BENCH_ARGS ?=
DOCS_VENV ?= .venv-docs

bin = $(VENV)/bin
# Named after interpreter and extras, so that another PYTHON or EXTRAS starts afresh.
release := $(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
comma := ,
stamp = $(VENV)/.installed-$(release)-$(subst $(comma),-,$(EXTRAS))

.PHONY: test suite lint types format single bench docs dist clean
.NOTPARALLEL:

test: lint types suite

suite: $(stamp)
	$(bin)/python -m pytest $(PYTEST_ARGS)

lint: $(stamp)
	@if [ -x $(bin)/ruff ]; then \
	    $(bin)/ruff check . && $(bin)/ruff format --check .; \
	else echo "lint: skipped, ruff is not installed for Python $(release)"; fi

types: $(stamp)
	@if [ -x $(bin)/mypy ]; then \
	    $(bin)/mypy && $(bin)/mypy --python-version 3.14; \
	else echo "types: skipped, mypy is not installed for Python $(release)"; fi

format: $(stamp)
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

single:
	$(PYTHON) pixie_web/single.py pixie_web.py

bench: $(BENCH_VENV)/.installed
	$(BENCH_VENV)/bin/python bench/run.py $(BENCH_ARGS)
	$(BENCH_VENV)/bin/python bench/run.py --name again $(BENCH_ARGS)
	$(BENCH_VENV)/bin/python bench/charts.py

# One by one: a peer that can't be installed here is left out, and the others are not.
$(BENCH_VENV)/.installed: bench/requirements.txt
	$(PYTHON) -m venv --clear $(BENCH_VENV)
	@while read -r peer; do $(BENCH_VENV)/bin/python -m pip install --quiet "$$peer" \
	    || echo "bench: $$peer is left out"; done <bench/requirements.txt
	@touch $@

docs: $(DOCS_VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/python -m mkdocs build --quiet --strict
	@echo "docs: python3 -m http.server -d site"

$(DOCS_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv --clear $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet 'pip>=21.3'
	$(DOCS_VENV)/bin/python -m pip install --quiet '.[docs]'
	@touch $@

dist: $(stamp)
	rm -rf dist
	$(bin)/python -m pip install --quiet build
	$(bin)/python -m build --quiet --outdir dist
	$(bin)/python pixie_web/single.py dist/pixie_web.py

$(stamp): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("pixie_web needs Python 3.8 or later, \
	and $(PYTHON) is $(release)" if sys.version_info < (3, 8) else 0)'
	$(PYTHON) -m venv --clear $(VENV)
	$(bin)/python -m pip install --quiet 'pip>=21.3'  # the first to know --editable here
	$(bin)/python -m pip install --quiet --editable ".[$(EXTRAS)]"
	@touch $@

clean:
	rm -rf $(VENV) $(BENCH_VENV) $(DOCS_VENV) build dist site pixie_web.py *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
