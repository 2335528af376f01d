# Each target sets up what it needs, once: .venv is made from pyproject.toml and constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ENGINES := $(VENV)/.engines
SITE := $(VENV)/.site
# Whether the server's programs are there: Debian has them in a folder that is in no PATH.
POSTGRESQL := $(BIN)/python bench/postgresql.py

.PHONY: install engines demo test check format bench docs site wheel clean

install: $(STAMP)  ## the package and what the tests need, into .venv

$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (torch is about 200 MB; once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.12 install"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[weights,postgresql]' --group dev
	@touch $@

engines: $(ENGINES)  ## every export and engine extra: 2.5 GB, onnxruntime-web where there is npm, chromium and PostgreSQL

$(ENGINES): $(STAMP)
	@echo "Installing every engine into $(VENV) (about 2.5 GB; once)"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --group engines \
		--editable '.[weights,openvino,litert-export,executorch,ncnn,coreml,mcu,keras,serve,video,hub]'
	@if command -v npm >/dev/null; then \
		npm install --silent --no-fund --no-audit --ignore-scripts --prefix $(VENV)/node \
			onnxruntime-web@1.30.0 axe-core@4.14.1; \
	else echo "npm is not there: the web target will not be tested"; fi
	@if ! command -v chromium >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq chromium >/dev/null || true; fi
	@command -v chromium >/dev/null || echo "chromium is not there: web pages will not be tested"
	@if ! $(POSTGRESQL) 2>/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq postgresql >/dev/null || true; fi
	@$(POSTGRESQL) || echo "PostgreSQL is not there: a race in it will not be tested"
	@touch $@

demo: install  ## train on scikit-learn's digits, export, verify: two to three minutes
	@$(BIN)/python examples/demo.py

test: install  ## all tests of what is installed
	@$(BIN)/python -m pytest -n 2 --dist worksteal

check: install  ## lint, types, import direction, formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## our training step against the plain eager loop; 10,000 networks for a budget
	@$(BIN)/python bench/train_step.py
	@$(BIN)/python bench/budget.py

docs: install  ## the figures and tables that docs/ shows
	$(BIN)/python -m docs.blocks.figures
	$(BIN)/python docs/make_deviations.py
	$(BIN)/python docs/recipe_tables.py

$(SITE): $(STAMP)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --group docs
	@touch $@

site: $(SITE)  ## docs/ and a reference of the public names, as pages in build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

wheel: install  ## the wheel in an empty environment: trains, exports and verifies from another folder
	@$(BIN)/python bench/wheel.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
