# Needs Python 3.11, make and a network that reaches PyPI; everything else goes into .venv.
# Another interpreter: make install PYTHON=/path/to/python3.11
VENV := .venv
export PYTHON ?= $(shell command -v python3.11 || command -v python3)

.PHONY: demo test check install docs builtin clean

demo: install  ## prepare, train and export chairs: 10 minutes on 2 cores
	$(VENV)/bin/g3d demo

test: install  ## the suite without the longest tests: six minutes on 2 cores
	$(VENV)/bin/python -m pytest -q -m "not long"

check: install  ## lint, types, spelling, generated docs, then the whole suite
	.ci/check.sh $(VENV)
	$(VENV)/bin/python -m pytest -q

install: $(VENV)/installed  ## .venv with g3d, editable, and the tools for developers

$(VENV)/installed: pyproject.toml .ci/install.sh
	.ci/install.sh $(VENV)
	@touch $@

docs: install  ## docs/cli.md, from the commands themselves; docs/presets.md, from the presets
	$(VENV)/bin/python -m typer g3d.cli utils docs --name g3d --output docs/cli.md
	$(VENV)/bin/python -m g3d.trainer.presets.table docs/presets.md

builtin: install  ## the run that is packaged as builtin:chair, made anew: a quarter of an hour
	.ci/make-builtin.sh $(VENV)

clean:  ## what was installed and cached; datasets, runs and exports stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
