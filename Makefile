# Everyday commands. `make help` lists them.

PYTHON ?= python3
ARGS   ?=

VENV := .venv
BIN  := $(VENV)/bin

# One stamp for each set of extras. A stamp is written only once the install it stands for
# went well, and is out of date as soon as one of these files changes.
PINS      := pyproject.toml constraints.txt
HAS_BASE  := $(VENV)/.has-base
HAS_TEST  := $(VENV)/.has-test
HAS_PLOTS := $(VENV)/.has-plots
HAS_BENCH := $(VENV)/.has-bench
HAS_DEV   := $(VENV)/.has-dev
HAS_DOCS  := $(VENV)/.has-docs

# Inside $(call ...) a comma of one's own would separate arguments.
COMMA := ,

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help train test check format curves leaderboard bench docs clean

help: ## List the commands (the default)
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo 'The rest of a command line goes into ARGS and is passed on as it stands:'
	@echo '  make train ARGS="seed=1 total_env_steps=50000"   settings (plain `make train seed=1` sets nothing)'
	@echo '  make test ARGS="-m slow"                         pytest options; these run the slow tests'
	@echo 'PYTHON (default: python3) is what $(VENV) is made with: make train PYTHON=python3.12'

train: $(HAS_BASE) ## Train a policy; ARGS are settings for `rlkl train`
	@$(BIN)/rlkl train $(ARGS)

test: $(HAS_TEST) ## Run the tests on all cores; ARGS are options for pytest
	@PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n auto --dist worksteal $(ARGS) # many tests start processes

check: $(HAS_DEV) ## Lint, check the format and the types, then run the tests (ARGS as for test)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	@$(MAKE) --no-print-directory test

format: $(HAS_DEV) ## Format the code and fix what lint can fix by itself
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

curves: $(HAS_PLOTS) ## Draw learning curves; ARGS are options for scripts/learning_curves.py
	@$(BIN)/python scripts/learning_curves.py $(ARGS)

# One grid in two commands, because classic control has ten seeds. Seeds are swept first. A failed
# job ends a command with an error (the dash ignores it), after all other jobs.
BOARD := $(BIN)/rlkl train -m experiment=leaderboard grid=leaderboard
SMALL := env=cartpole,acrobot,pendulum
LARGE := env=halfcheetah,hopper,walker2d,ant,swimmer,reacher,invertedpendulum,inverteddoublependulum

leaderboard: $(HAS_DEV) ## Train the missing runs of the leaderboard and update its page
	-@$(BOARD) 'seed=range(10)' $(SMALL) 'algo=glob(*)' $(ARGS)
	-@$(BOARD) 'seed=range(5)' $(LARGE) 'algo=glob(*)' $(ARGS)
	@$(BIN)/python scripts/leaderboard.py runs/grids/leaderboard

bench: $(HAS_BENCH) ## Measure speed beside other libraries; ARGS are settings for `rlkl bench`
	@$(BIN)/rlkl bench $(ARGS)

docs: $(HAS_DOCS) ## Make the documentation site in build/docs, and run its notebooks
	@$(BIN)/python -m sphinx -q -W --keep-going docs build/docs
	@echo 'build/docs/index.html; for the search: python3 -m http.server -d build/docs'

clean: ## Remove build artefacts and caches; keeps runs/ and .venv
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find . \( -path ./$(VENV) -o -path ./runs -o -path ./.git \) -prune \
		-o -type d -name __pycache__ -exec rm -rf {} +

# PIP_CONSTRAINT pins the isolated builds too (newer versions of pip read
# PIP_BUILD_CONSTRAINT for those). With -q -q, pip prints errors only.
define install
	@echo 'Setting up $(VENV) for $(2) (once; a few minutes) ...'
	@PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
		PIP_DISABLE_PIP_VERSION_CHECK=1 \
		$(BIN)/python -m pip install -q -q -c constraints.txt -e '$(1)' || { \
		echo "The install failed. All that pip has to say: $(BIN)/pip install -c constraints.txt -e '$(1)'" >&2; \
		exit 1; }
endef

$(HAS_BASE): $(BIN)/python $(PINS)
	$(call install,.,training)
	@touch $@

$(HAS_TEST): $(BIN)/python $(PINS)
	$(call install,.[test],the tests)
	@touch $@ $(HAS_BASE)

$(HAS_PLOTS): $(BIN)/python $(PINS)
	$(call install,.[plots],the plots)
	@touch $@ $(HAS_BASE)

$(HAS_BENCH): $(BIN)/python $(PINS)
	$(call install,.[bench$(COMMA)mujoco],the benchmark)
	@touch $@ $(HAS_BASE)

$(HAS_DEV): $(BIN)/python $(PINS)
	$(call install,.[dev],development)
	@touch $@ $(HAS_BASE) $(HAS_TEST) $(HAS_PLOTS) $(HAS_BENCH)

# A .venv that could not be completed is removed: half of one would pass for a whole one.
$(BIN)/python:
	@version=$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || { \
		echo 'rlkl needs Python 3.11 or newer, but "$(PYTHON)" does not run; name one that does, such as PYTHON=python3.12' >&2; exit 1; }; \
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "rlkl needs Python 3.11 or newer, but $(PYTHON) is $$version; name a newer one, such as PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }
