# Everything is installed in .venv, or in the folder VENV, from the locks in requirements/. `make` alone lists the targets.

# The newest Python here that can make environments, as in the container image: 3.13 needs a sixth less CPU than 3.11.
PYTHON ?= $(NEWEST)
NEWEST := $(shell for python in python3.13 python3.12 python3; do \
	$$python -c 'import ensurepip' 2>/dev/null && break; done; echo $$python)
PM2 ?= pm2
SEEDS ?= 1 2 3
JOBS ?= 1000
SECONDS ?= 10 60 300
FUZZ_SECONDS ?= 60
# One environment for each Python. If PYTHON differs from that of .venv, the environment is .venv-3.13 or the like.
VERSION := -c 'import sys; print("%d.%d" % sys.version_info[:2])'
ASKED = $(shell $(PYTHON) $(VERSION))
MADE = $(shell test ! -x .venv/bin/python || .venv/bin/python $(VERSION))
ifeq ($(origin PYTHON),file)
VENV ?= .venv
else
VENV ?= $(if $(filter-out $(ASKED),$(MADE)),.venv-$(ASKED),.venv)
endif
VENV := $(VENV)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url \
	--custom-compile-command "make lock" $(UPGRADE)
# Print the requirements of one table of pyproject.toml, one on each line.
REQUIREMENTS = $(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))$(1), sep="\n")'

# Tests of everything that a fast library for pixels may change.
PIXEL_TESTS := $(addprefix tests/unit/images/test_,$(addsuffix .py,codecs render colour examine measure facts placeholder thumbhash encoding decoding fits))

# With it, each of the many processes of the tests would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-dev demo run check test coverage test-fallbacks smoke image test-corpus test-differential mutants simulate chaos soak outages lint format docs screenshots schema bench bench-scale bombs fuzz audit sbom upgrade-test release \
	bench-images bench-neighbours lock \
	pm2-image-consumer pm2-restart-image-consumer pm2-delete-image-consumer \
	pm2-script-resize-images-from-channel pm2-delete-script-resize-images-from-channel \
	pm2-script-resize-images-from-episodes pm2-delete-script-resize-images-from-episodes

help: ## List the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-48s %s\n", $$1, $$2 }'

setup: $(VENV)/.product ## Install the service in .venv

setup-dev: $(VENV)/.dev $(VENV)/.servers ## Also install the development tools and the embedded servers

demo: setup-dev ## Run sample covers through the whole pipeline on this machine
	$(BIN)/image-pipeline demo

run: setup-dev ## Run the service on the embedded servers until Ctrl-C
	$(BIN)/image-pipeline local

check: setup-dev lint ## Check style, format and types, and run the unit tests
	$(BIN)/pytest -n auto tests/unit $(ARGS)

test: setup-dev ## Run all tests in parallel and in random order (ARGS="-k name" for some)
	$(BIN)/pytest -n auto $(ARGS)

coverage: setup-dev ## Run all tests, child processes included, and report which lines and branches ran (takes half as long again)
	$(BIN)/coverage erase
	status=0; PYTHONPATH="$(CURDIR)" $(BIN)/coverage run -m pytest -n auto $(ARGS) || status=$$?; \
		$(BIN)/coverage combine --quiet; $(BIN)/python -m tests.coverage; exit $$status

test-fallbacks: setup-dev ## Run the tests of pixels without each of the fast libraries, and without both
	for packages in kornia_rs pic_scale kornia_rs,pic_scale; do \
		TESTS_WITHOUT=$$packages PYTHONPATH=tests/support/missing $(BIN)/pytest $(PIXEL_TESTS) $(ARGS) || exit 1; done

smoke: setup-dev ## Build the wheel, install it in a fresh environment, and run the service with it (PYTHON=python3.11 for another)
	$(BIN)/python -m tests.smoke

image: setup-dev ## Build the container image without a daemon, and run the demo in it (needs root, podman, runc, mmdebstrap)
	$(BIN)/python -m tests.container

upgrade-test: setup-dev ## Deploy this release over the last one, and back, while jobs are under way; none may be lost
	$(BIN)/python -m tests.upgrade

release: setup-dev $(VENV)/.audit ## Build the wheel, the source distribution and the SBOM of the last commit in dist/, and try them
	$(BIN)/python -m tests.release

test-corpus: setup-dev ## Render every file of a folder in a child process with limits (DIR=folder, ARGS="--mutate 5" for broken copies)
	$(BIN)/python -m tests.corpus $(DIR) $(ARGS)

test-differential: setup-dev ## Compare renditions of over 1,000 public images with independent decoders (ARGS="--only '*.tif'" for some)
	$(BIN)/python -m tests.corpus.differential $(ARGS)

bombs: setup-dev ## Measure files with as many parts as fit, at 1 MB and at the size limit (ARGS="--size 1000000" for one)
	$(BIN)/python -W ignore -m tests.corpus.amplify $(ARGS)

fuzz: setup-dev ## Fuzz the readers of image headers (FUZZ_SECONDS=3600 for an hour; keeps inputs in .fuzz/)
	$(BIN)/python -W ignore -m tests.corpus.fuzz .fuzz -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1

audit: $(VENV)/.audit ## Look up known vulnerabilities of the locked packages; needs access to PyPI
	$(VENV)/audit/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/base.lock

sbom: $(VENV)/.audit ## Write the list of the locked packages, sbom.json, in the format CycloneDX
	$(VENV)/audit/bin/cyclonedx-py requirements --output-file sbom.json requirements/base.lock

mutants: setup-dev ## Change the code in small ways, and see whether the tests notice (ARGS="--seed 1 --area job", ARGS=--all)
	$(BIN)/python -m tests.mutants $(ARGS)

simulate: SEEDS = 1-5000
simulate: setup-dev ## Simulate histories of the queue layer on a virtual clock, and check each (SEEDS=1-50000, ARGS="--theme crashes")
	$(BIN)/python -m tests.simulation $(SEEDS) $(ARGS)

chaos: setup-dev ## Cause every kind of fault, and prove that no job is lost (JOBS=1000 SEEDS="1 2 3")
	$(BIN)/python -m tests.chaos --jobs $(JOBS) --seed $(SEEDS)

soak: MINUTES = 60
soak: setup-dev ## Run everything for longer than its timeouts, and fail on growth, dead probes and losses (MINUTES=60)
	$(BIN)/python -m tests.soak --minutes $(MINUTES)

outages: setup-dev ## Take SQS away during work, in four ways (SECONDS="10 60 300": 30 minutes)
	$(BIN)/python -m tests.chaos.outages $(SECONDS)

lint: setup-dev ## Check style, format, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup-dev ## Fix style and format where possible
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .

docs: $(VENV)/.docs ## Build the documents as a searchable site in docs/_build/html; a broken link fails
	$(VENV)/docs/bin/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build/html
	@echo docs/_build/html/index.html

screenshots: setup-dev ## Retake the pictures of the dashboard in docs/; needs Chromium
	$(BIN)/pytest tests/browser --need-browser --screenshots -k goes_through

schema: setup-dev ## Rewrite docs/schema from pipeline/ops/asyncapi.json
	$(BIN)/image-pipeline schema --write docs/schema

bench: setup-dev ## Compare the whole pipeline with alternatives (writes docs/performance.md; ARGS="--quick --only file")
	$(BIN)/python benchmarks/end_to_end/bench.py $(ARGS)

bench-scale: setup-dev ## Measure the images a second of each stage (writes docs/performance.md)
	$(BIN)/python benchmarks/end_to_end/scale.py $(ARGS)

bench-images: setup-dev ## Compare rendering with sharp, libvips, Pillow and ImageMagick (writes docs/performance.md)
	$(BIN)/python benchmarks/images/bench.py $(ARGS)

bench-neighbours: setup-dev ## Time live jobs alone and beside bad neighbours (ARGS="--only hang", ARGS=--rates)
	$(BIN)/python benchmarks/end_to_end/neighbours.py $(ARGS)

lock: setup-dev ## Rewrite the lock files from pyproject.toml (UPGRADE=--upgrade for the newest releases)
	$(call REQUIREMENTS,["build-system"]["requires"]) | $(COMPILE) pyproject.toml - -o requirements/base.lock
	$(call REQUIREMENTS,["build-system"]["requires"]) | $(COMPILE) pyproject.toml - --constraints requirements/base.lock \
		--no-emit-package kornia-rs --no-emit-package numpy \
		-o requirements/musl.lock
	$(COMPILE) pyproject.toml --group dev --constraints requirements/base.lock -o requirements/dev.lock
	$(call REQUIREMENTS,["dependency-groups"]["servers"]) | $(COMPILE) - -o requirements/servers.lock
	$(call REQUIREMENTS,["dependency-groups"]["audit"]) | $(COMPILE) - -o requirements/audit.lock
	$(call REQUIREMENTS,["dependency-groups"]["docs"]) | $(COMPILE) - -o requirements/docs.lock
	$(call REQUIREMENTS,["dependency-groups"]["types"]) | $(COMPILE) - -o requirements/types.lock
	$(COMPILE) benchmarks/images/peers.in -o benchmarks/images/peers.lock
	$(COMPILE) tests/corpus/differential/decoders.in -o tests/corpus/differential/decoders.lock
	$(COMPILE) --constraints requirements/base.lock benchmarks/end_to_end/peers.in -o benchmarks/end_to_end/peers.lock

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or later is needed, not %d.%d. Choose one: make PYTHON=python3.13" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.product: requirements/base.lock pyproject.toml | $(VENV)/pyvenv.cfg
	@echo "Installing the service in $(VENV) …"
	$(PIP) install --require-hashes -r requirements/base.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.lock pyproject.toml | $(VENV)/pyvenv.cfg
	@echo "Installing the service and its tools in $(VENV): about a minute …"
	$(PIP) install --require-hashes -r requirements/dev.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.product

# The site generator has its own environment, because the service does not need its packages.
$(VENV)/.docs: requirements/docs.lock | $(VENV)/pyvenv.cfg
	$(BIN)/python -m venv $(VENV)/docs
	$(VENV)/docs/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/docs.lock
	@touch $@

# So has the audit, whose packages the service does not need either.
$(VENV)/.audit: requirements/audit.lock | $(VENV)/pyvenv.cfg
	$(BIN)/python -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/audit.lock
	@touch $@

# The servers have their own environment, because they require older packages. Their commands are linked into .venv/bin.
$(VENV)/.servers: requirements/servers.lock | $(VENV)/pyvenv.cfg
	@echo "Installing the embedded servers in $(VENV)/servers …"
	$(BIN)/python -m venv $(VENV)/servers
	$(VENV)/servers/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/servers.lock
	ln -sf ../servers/bin/ministack ../servers/bin/secantusd-py $(BIN)/
	@touch $@

# pm2 stops honcho only (--no-treekill). honcho stops its own processes, and kills them after 5 s, before pm2 would.
pm2-image-consumer: setup ## Start the Procfile's processes under pm2
	PATH="$(CURDIR)/$(BIN):$$PATH" LEVEL=INFO $(PM2) start $(BIN)/honcho --name image-consumer --interpreter none \
		--kill-timeout 10000 --no-treekill -- start

pm2-restart-image-consumer: ## Restart them
	$(PM2) restart image-consumer

pm2-delete-image-consumer: ## Stop them and remove them from pm2
	$(PM2) delete image-consumer

# Like the earlier scripts of these names: on the production database, now and daily at 1. The scheduler does the same without pm2.
PM2_SWEEP = PATH="$(CURDIR)/$(BIN):$$PATH" LEVEL=INFO ENVIRONMENT=PRODUCTION $(PM2) start $(BIN)/image-pipeline \
	--interpreter none --no-autorestart --cron '0 1 * * *'

pm2-script-resize-images-from-channel: setup ## Start a sweep of the channels daily at 1 under pm2
	$(PM2_SWEEP) --name resize-image-from-channel -- sweep channels

pm2-script-resize-images-from-episodes: setup ## Start a sweep of the episodes daily at 1 under pm2
	$(PM2_SWEEP) --name resize-image-from-episodes -- sweep episodes

pm2-delete-script-resize-images-from-channel: ## Remove the daily sweep of channels from pm2
	$(PM2) delete resize-image-from-channel

pm2-delete-script-resize-images-from-episodes: ## Remove the daily sweep of episodes from pm2
	$(PM2) delete resize-image-from-episodes
