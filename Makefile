# Few commands, the same for people and for CI. Each sets up what it needs, in .venv, as the invoking user.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

.PHONY: help setup demo test soak lint types native bench-datapath bench-delivery bench-logs bench-sql bench-api performance migration deb docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## the virtual environment with vnotch in it, datapath compiled
	@PYTHON=$(PYTHON) scripts/setup

demo: setup ## a VPC on this host, real traffic for 30 s, its flow log records and their ledger
	@$(RUN)/vnotch demo

WORKERS ?= 4

test: setup ## all tests (nine minutes and a half on two cores; WORKERS=2 where other things run beside them)
	@$(RUN)/python -m pytest -q -m "not soak" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

soak: setup ## the tests that take longer (Spark's need Java 17: apt install openjdk-17-jre-headless)
	@$(RUN)/python -m pip install --disable-pip-version-check --quiet 'pyspark>=4,<5'
	@$(RUN)/python -m pytest -q -m soak --timeout=3600

lint: setup ## ruff and strict types
	@$(RUN)/ruff check src tests bench examples hatch_build.py && $(RUN)/ruff format --check src tests bench examples hatch_build.py && $(RUN)/mypy

native: setup ## compile the datapath again
	@$(RUN)/python hatch_build.py

bench-datapath: setup ## what the datapath costs a packet, by the kernel's run statistics (root)
	@$(RUN)/python bench/datapath.py

bench-delivery: setup ## whether delivery keeps up: 500 interfaces, 3 flow logs, windows of 5 s, over loopback
	@$(RUN)/python bench/delivery.py

performance: setup ## remake docs/performance.md from a run of the benchmarks (root; iperf3, softflowd, nfdump, pmacct if there)
	@$(RUN)/python bench/page.py

bench-logs: setup ## how fast the log service takes in and answers 20 M records (makes 0.5 GB of data, once)
	@$(RUN)/python bench/logs.py

bench-sql: setup ## how fast questions over 50 M records are answered (makes 2 GB of data, once)
	@$(RUN)/python bench/sql.py

bench-api: setup ## how fast policies are decided, signatures checked and calls answered, beside moto's server
	@$(RUN)/python bench/api.py

migration: setup ## the next revision of the state's schema, TEXT="what changes"; for whoever changes a table
	@$(RUN)/python scripts/make-migration "$(TEXT)"

deb: setup ## the Debian package, in dist/ (on the release that it is for)
	@scripts/make-deb

docs: setup ## remake the generated reference pages
	@$(RUN)/python -m vnotch.fields > docs/fields.md
	@$(RUN)/python -m vnotch.insights.document docs/insights.md
	@$(RUN)/python -m vnotch.api.document > docs/api.md

clean: ## remove what setup made
	rm -rf $(VENV) src/vnotch/capture/native src/vnotch/native
