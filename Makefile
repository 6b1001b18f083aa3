# Two commands do everything on a machine that has Python (3.11 or newer) and make:
#   make demo   a first answer: a table and a roofline picture
#   make test   all checks and tests
#   make validation   docs/validation.md and docs/mtap.md from the measurements in $RIDGELINE_DATA (about 15 minutes)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo validation error-laws test test-newest format check clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	mkdir -p out
	$(BIN)/ridgeline predict llama-3.1-70b --on h100_sxm --tp 4 --batch 32 --input 1024 --output 256 --plot out/roofline.png
	@echo 'The ridgeline command is in $(BIN); source $(BIN)/activate to use it.'

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# Compiling is most of what the suite does, and these flags make it three times cheaper. Only for the pinned releases: a flag
# that a release does not know ends the process.
test: export XLA_FLAGS ?= --xla_cpu_use_fusion_emitters=false
test: check
	$(BIN)/python -m pytest -n 2

# The same suite on the newest releases of every dependency, in an environment of its own.
test-newest:
	$(PYTHON) -m venv --clear $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --editable ".[dev]"
	$(VENV)-newest/bin/python -m pytest -n 2

validation: $(STAMP)
	$(BIN)/ridgeline validation --out docs
	$(BIN)/ridgeline mtap --out docs/mtap.md

# The error laws behind every interval, after any change of constants or models (long: everything is refitted without its parts).
error-laws: $(STAMP)
	$(BIN)/ridgeline calibrate-errors --out profiles/constants/error_laws.toml

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV)-newest out dist build
