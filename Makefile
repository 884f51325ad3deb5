# make run   create .venv, install, and run the main job on the embedded default
# make test  create .venv, install, and run the tests, the whole workflow among them
# make test-slow  those that take minutes each: kills, branches, caches, ImageNet's settings, a cluster
# make lint  style, types and workflow checks
# make bench all benchmarks, of what make all made; each prints a table and writes JSON into benchmarks/results/
# make share REMOTE=…, CACHE=…  where the team's artifacts lie: a remote for all machines, a cache for the clones on one
# make all   everything the workflow can make: ten SEQnets in two formats, cards and report

PYTHON ?= python3
CORES ?= $(shell nproc)
TARGET ?= results/pixel4/seqnet_A1.tflite results/pixel4/seqnet_A1.json

BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: run all test test-slow lint bench install share clean

run: $(INSTALLED)
	$(BIN)/snakemake --cores $(CORES) $(TARGET)

all: $(INSTALLED)
	$(BIN)/snakemake --cores $(CORES)

test: $(INSTALLED)
	$(BIN)/pytest --numprocesses $(CORES) --dist loadfile

test-slow: $(INSTALLED)
	$(BIN)/pytest --numprocesses $(CORES) --dist load -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check workflow/Snakefile workflow/rules
	$(BIN)/python tools/lint_workflow.py

bench: $(INSTALLED)
	for script in $(filter-out benchmarks/common.py benchmarks/trained.py, $(wildcard benchmarks/*.py)); do $(BIN)/python $$script || exit 1; done

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

share: $(INSTALLED)
	$(if $(REMOTE)$(CACHE),,$(error Name a remote or a cache: make share REMOTE=s3://bucket/folder CACHE=/shared/dvc))
	$(if $(REMOTE),$(BIN)/dvc remote add --force --default team $(REMOTE))
	$(if $(CACHE),$(BIN)/dvc cache dir --local $(CACHE) && $(BIN)/dvc config --local cache.shared group)

clean:
	rm -rf results .snakemake
