# `make report`: everything from a bare clone to results/report.html. `make test`: all checks.
.PHONY: report test setup lock settings audit clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= all
# A user without a home that can be written to, as in some containers: caches go here.
ifneq ($(shell test -d "$$HOME" -a -w "$$HOME" && echo yes),yes)
export HOME := $(CURDIR)/build/home
endif
PIP_OPTIONS := --quiet --disable-pip-version-check

report: $(VENV)/report.stamp
	$(BIN)/snakemake --cores $(CORES) --rerun-incomplete

test: $(VENV)/test.stamp
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tests/check.py

setup: $(VENV)/report.stamp

$(VENV)/bin/python:
	@case "$$PWD" in *[{}]*) echo "$$PWD has a brace in its path, where Snakemake cannot run; move the project." >&2; exit 1;; esac
	@test -w . || { echo "$$PWD cannot be written to; copy the project to a folder of yours." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ColPort needs Python 3.11 or newer, found " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/report.stamp: envs/cpu.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install $(PIP_OPTIONS) --require-hashes -r envs/cpu.txt
	$(BIN)/python -m pip install $(PIP_OPTIONS) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/test.stamp: envs/dev.txt $(VENV)/report.stamp
	$(BIN)/python -m pip install $(PIP_OPTIONS) --require-hashes -r envs/dev.txt
	touch $@

# Pin every requirement set again, with hashes; needs uv.
lock:
	for set in cpu gpu openvino directml migraphx cluster dev; do \
	  uv pip compile envs/$$set.in --universal --python-version 3.11 --generate-hashes \
	    --no-header --no-annotate --quiet --output-file envs/$$set.txt; \
	  sed -i 's/^torch==\([0-9]\)/torch===\1/' envs/$$set.txt; \
	done
	$(PYTHON) envs/make_conda.py

# Write the config's schema and the tables of config/README.md, results/README.md, docs/models.md and
# docs/costs.md again, after an edit of a setting, of a column or of what is known of checkpoints.
settings: $(VENV)/test.stamp
	$(BIN)/python config/schemas/generate.py
	$(BIN)/python docs/generate.py

# Compare the pins with published advisories; says so where these cannot be looked up.
audit: $(VENV)/bin/python
	$(BIN)/python -m venv build/audit
	build/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	build/audit/bin/python envs/audit.py

clean:
	rm -rf $(VENV) .snakemake logs build
