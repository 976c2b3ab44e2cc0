# Two commands: `make quickstart` does the whole job, `make test` proves the code. All targets set everything up first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test coverage model reproduce web docs tour release wheel versions clean

# RAVDESS=DIR TESS=DIR: on real recordings instead of the synthetic voices
quickstart: .venv/ready
	$(BIN)/python scripts/quickstart.py $(if $(RAVDESS),--ravdess "$(RAVDESS)") $(if $(TESS),--tess "$(TESS)")

# RAVDESS=DIR TESS=DIR [BACKBONE=DIR SEEDS=3 FIRST=42]: cross-validates and makes the bundled model again; goes on where it was cut off
model: .venv/ready
	$(BIN)/python scripts/maintain/bundle_model.py --ravdess "$(RAVDESS)" --tess "$(TESS)" \
		$(if $(BACKBONE),--backbone "$(BACKBONE)") $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FIRST),--first $(FIRST))

# RAVDESS=DIR TESS=DIR [MODELS="mfcc-svm tiny bundled" ONLY="speaker" BACKBONE=DIR]: the tables of docs/evidence.md again, compared with them
reproduce: .venv/ready
	$(BIN)/python scripts/reproduce.py --ravdess "$(RAVDESS)" --tess "$(TESS)" $(if $(MODELS),--models $(MODELS)) \
		$(if $(ONLY),--only $(ONLY)) $(if $(BACKBONE),--backbone "$(BACKBONE)")

# without reordering the many quick files come last, and keep every process busy to the end
test: .venv/ready web/node_modules/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	OMP_NUM_THREADS=1 LOKY_MAX_CPU_COUNT=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# the same tests, and the lines of ser_hf that none of them runs, those of the programs that tests start included
coverage: .venv/ready web/node_modules/ready
	rm -f .coverage .coverage.*
	OMP_NUM_THREADS=1 LOKY_MAX_CPU_COUNT=1 $(BIN)/coverage run -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# the page that runs the model in the browser of its visitors, bundled into the package
web: web/node_modules/ready
	cd web && node build.mjs

# [VERSION=1.2.3 REPOSITORY=https://…]: the documentation in site/, which needs no network; fails at a broken link
docs: .venv/ready
	$(BIN)/python scripts/maintain/build_docs.py $(if $(VERSION),--version "$(VERSION)") \
		$(if $(REPOSITORY),--repository "$(REPOSITORY)")

# VERSION=1.2.3 [DRY_RUN=1]: checks, tests, builds, commits and tags; docs/releasing.md has the steps by hand
release: .venv/ready web/node_modules/ready
	$(BIN)/python scripts/maintain/release.py "$(VERSION)" $(if $(DRY_RUN),--dry_run)

# builds the wheel and uses it in a new environment of 6 GB; REUSE=1: with the libraries of this one
wheel: .venv/ready
	$(BIN)/python scripts/maintain/check_wheel.py $(if $(REUSE),--reuse)

# the tests with other versions, in a new environment of 6 GB: WHICH=lowest|highest|constraints, WITH=python3.13
versions: .venv/ready
	$(BIN)/python scripts/maintain/check_versions.py $(or $(WHICH),highest) $(if $(WITH),--python $(WITH))

# the notebook of docs/, executed again
tour: .venv/ready
	$(BIN)/python scripts/maintain/tour.py

# without npm the tests of the page skip, and say so
web/node_modules/ready: web/package-lock.json
	@if command -v npm >/dev/null; then cd web && npm ci --ignore-scripts --no-progress && touch node_modules/ready; \
	else echo "npm is not installed: the page for the browser is not tested"; fi

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	@echo "installing the tested versions into .venv: about 6 GB, which takes minutes"
	if [ -t 1 ]; then quiet=; else quiet=--quiet; fi; \
	$(BIN)/python -m pip install $$quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs site
