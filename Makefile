# make demo: pre-train and evaluate on made-up imagery, a few minutes.   make test: ruff, mypy, pytest.   make lint
# make fuzz: damaged input of all kinds, for minutes.   make oldest: tests with the oldest packages that are allowed.
# make docs: the manual, as site/index.html.
# Each first installs what is missing: the venv module, and for Python 3.10 and 3.11 GDAL and a compiler, by apt; the
# rest into .venv by pip. torch is the build for this machine's GPU, or for CPUs; UV_TORCH_BACKEND=cu128 asks for another.
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
	@printf '\nrsssl: now your own: . %s/activate, then for example\n' $(BIN)
	@printf '  rsssl-run task=map dataset=scene dataset.scenes=scene.tif dataset.labels=points.gpkg dataset.field=class out=map.tif\n'

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

# What Debian calls so, by apt where there is apt.
need() {
  (( $$# )) || return 0
  has apt-get || fail "missing here: $$* (Debian's names); install them with your system's package manager"
  local sudo=()
  if (( $$(id -u) != 0 )); then
    has sudo || fail "missing here: $$*; as root type: apt-get install $$*"
    sudo=(sudo)
  fi
  say "installing $$* with apt-get"
  "$${sudo[@]}" apt-get update -q || say "apt-get update failed; trying with the package lists at hand"
  "$${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$$@" \
    || fail "apt-get failed; type: $${sudo[*]} apt-get install $$*"
}

has $(PYTHON) || { [ $(PYTHON) = python3 ] && need python3 python3-venv; } || fail "there is no $(PYTHON) here"
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
  || fail "$(PYTHON) is older than Python 3.10; type: make $(MAKECMDGOALS) PYTHON=python3.11"
# PyPI has GDAL with its library for Python 3.12 and later; before, its bindings are built for the system's library.
wheel=$$($(PYTHON) -c 'import sys; print(int(sys.version_info >= (3, 12)))')

missing=()
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
if (( ! wheel )); then
  $(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
    || missing+=(python3-dev)
  has g++ || missing+=(g++)
  has gdal-config || missing+=(libgdal-dev)
fi
need "$${missing[@]}"

[ -x $(BIN)/pip ] || { say "creating .venv"; $(PYTHON) -m venv --clear .venv; }
say "installing rsssl and what it needs into .venv; this takes minutes the first time"
export PIP_DISABLE_PIP_VERSION_CHECK=1
if ! $(BIN)/python -c 'import torch' 2>/dev/null; then
  $(BIN)/pip install -q 'uv>=0.8'
  say "torch: the build for this machine's GPU or, without one, for CPUs"
  $(BIN)/uv pip install --python $(BIN)/python --torch-backend="$${UV_TORCH_BACKEND:-auto}" \
    $$(sed -n 's/^ *\(torch\(vision\)\?>=.*\)/\1/p' setup.cfg) \
    || say "torch's own index cannot be reached; PyPI's build does as well, and is some GB for NVIDIA's GPUs"
fi
if (( wheel )); then
  say "GDAL: PyPI's binary, with its library; no compiler is needed"
  $(BIN)/pip install -e '.[test,gdal]'
else
  version=$$(gdal-config --version)
  $(BIN)/pip install -e '.[test]'
  say "GDAL: building the Python bindings of the system's $$version, with numpy"
  $(BIN)/pip install -q setuptools wheel
  $(BIN)/pip install --no-build-isolation --no-cache-dir "gdal[numpy]==$$version" \
    || fail "the bindings of GDAL $$version did not build; the lines above say why"
fi
touch $(INSTALLED)
endef
export INSTALL

$(INSTALLED): setup.cfg pyproject.toml
	@bash -c "$$INSTALL"
