# make demo: pre-train and evaluate on made-up imagery, a few minutes.   make test: ruff, mypy, pytest.   make lint
# make fuzz: damaged input of all kinds, for minutes.   make oldest: tests with the oldest packages that are allowed.
# make docs: the manual, as site/index.html.
# Each first installs what is missing: GDAL, a compiler and the venv module by apt, the rest into .venv by pip.
PYTHON ?= python3
# One worker more than cores: many tests wait for processes of their own.
PYTEST_ARGS ?= -n $(shell echo $$(($$(nproc) + 1))) --dist worksteal
SHELL := /bin/bash
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test fuzz lint install oldest docs
.DELETE_ON_ERROR:

demo: install
	$(BIN)/rsssl-run --multirun experiment=demo ts=5,20 seed=0,1,2 hydra.sweep.dir=runs/demo
	$(BIN)/rsssl-report runs/demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

# Random input for minutes; RSSSL_FUZZ_SEED=100000 begins with other numbers.
fuzz: install
	OMP_NUM_THREADS=1 RSSSL_FUZZ=$${RSSSL_FUZZ:-20} $(BIN)/python -m pytest tests/fuzz $(PYTEST_ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(INSTALLED)

# Broken links and anchors fail. The search needs a server: python -m http.server --directory site
docs: $(BIN)/mkdocs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(BIN)/mkdocs:
	[ -x $(BIN)/pip ] || $(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check "$$(sed -n '/^docs =/{n;s/ *//p}' setup.cfg)"

# The lower bounds of setup.cfg, each as it stands there, in an environment of their own.
OLDEST := .oldest/bin
oldest:
	$(PYTHON) -m venv --clear .oldest
	$(OLDEST)/pip install -q uv
	$(OLDEST)/uv pip install --python $(OLDEST)/python --resolution lowest-direct -e .
	$(OLDEST)/uv pip install --python $(OLDEST)/python pytest pytest-xdist scikit-learn hypothesis pyproj
	OMP_NUM_THREADS=1 $(OLDEST)/python -m pytest $(PYTEST_ARGS) $(addprefix tests/,augment engine evaluation methods models networks optim)

define INSTALL
set -euo pipefail
say() { printf 'rsssl: %s\n' "$$*"; }
fail() { printf 'rsssl: %s\n' "$$*" >&2; exit 1; }
has() { command -v "$$1" >/dev/null 2>&1; }

has $(PYTHON) || fail "there is no $(PYTHON) here; type: apt-get install python3"
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
  || fail "$(PYTHON) is older than Python 3.10; type: make $(MAKECMDGOALS) PYTHON=python3.11"

missing=()
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
  || missing+=(python3-dev)
has g++ || missing+=(g++)
has gdal-config || missing+=(libgdal-dev)
if (( $${#missing[@]} )); then
  has apt-get || fail "missing here: $${missing[*]} (Debian's names); install them with your system's package manager"
  sudo=()
  if (( $$(id -u) != 0 )); then
    has sudo || fail "missing here: $${missing[*]}; as root type: apt-get install $${missing[*]}"
    sudo=(sudo)
  fi
  say "installing $${missing[*]} with apt-get"
  "$${sudo[@]}" apt-get update -q || say "apt-get update failed; trying with the package lists at hand"
  "$${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$${missing[@]}" \
    || fail "apt-get failed; type: $${sudo[*]} apt-get install $${missing[*]}"
fi

[ -x $(BIN)/pip ] || { say "creating .venv"; $(PYTHON) -m venv --clear .venv; }
say "installing rsssl and what it needs into .venv; torch alone is some GB, so this takes minutes the first time"
$(BIN)/pip install --disable-pip-version-check -e '.[test]'
version=$$(gdal-config --version)
say "building the Python bindings of GDAL $$version"
$(BIN)/pip install --disable-pip-version-check --use-pep517 "gdal==$$version" \
  || fail "the bindings of GDAL $$version did not build; the lines above say why"
touch $(INSTALLED)
endef
export INSTALL

$(INSTALLED): setup.cfg pyproject.toml
	@bash -c "$$INSTALL"
