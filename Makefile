# make train | test | lint | format | build: each first brings .venv up to date (pinned requirements, compiled operators).
# make sanitize | cuda-check | wheel-check: see CONTRIBUTING.md.
# PYTHON=python3.12 chooses the interpreter for a new .venv; ARGS="..." is passed on to training, pytest or the check.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
LIBRARY := ipr/lib/libipr_ops.so
BUILT_FROM := setup.py pyproject.toml CMakeLists.txt ipr/__init__.py $(wildcard csrc/*.* csrc/ops/* csrc/cpu/* csrc/cuda/* csrc/jpeg/*)
CPP := $(wildcard csrc/*.h csrc/*.cpp csrc/ops/* csrc/cpu/* csrc/cuda/* csrc/jpeg/* tests/cpp/*.cpp tests/cuda/*.h tests/cuda/*.cpp)

.PHONY: train test lint format build sanitize cuda-check wheel-check
.DELETE_ON_ERROR:

train: build
	$(PY) -m ipr.train $(ARGS)

test: build $(VENV)/requirements-dev.stamp
	$(PY) -m pytest $(ARGS)

lint: $(VENV)/requirements-dev.stamp
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy ipr
	$(VENV)/bin/clang-format --dry-run -Werror $(CPP)

format: $(VENV)/requirements-dev.stamp
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(CPP)

sanitize: $(VENV)/requirements-dev.stamp
	$(PY) -m tests.sanitize $(ARGS)

cuda-check: $(VENV)/requirements-dev.stamp
	$(PY) -m tests.cuda_build $(ARGS)

wheel-check: $(VENV)/requirements-dev.stamp
	$(PY) -m tests.wheels $(ARGS)

build: $(LIBRARY)

$(LIBRARY): $(VENV)/requirements.stamp $(BUILT_FROM)
	$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(PY) -m ipr.ops
	@touch $@

$(VENV)/requirements-dev.stamp: requirements.txt

$(VENV)/%.stamp: %.txt | $(VENV)/bin/pip
	@echo "Installing $< into $(VENV); the first time this takes minutes"
	$(PY) -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# pip is the last thing that venv makes: where it is missing, the environment is missing or half made.
$(VENV)/bin/pip:
	@command -v $(PYTHON) >/dev/null || { echo "ipr needs Python 3.11 or newer, and there is no $(PYTHON): make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("ipr needs Python 3.11 or newer, \
	and $(PYTHON) is %d.%d: make PYTHON=python3.11 (or newer)" % v)'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module: install it \
	(Debian and Ubuntu: apt install python3-venv), or make PYTHON=... with another one"; exit 1; }
	$(PYTHON) -m venv $(VENV)
