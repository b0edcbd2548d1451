# Two commands do everything: `make demo` and `make test`. Both set up what they need on a fresh machine.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test setup java lint types tests clean help

help:
	@echo "make demo   set up, then run the pipeline on the sample, show what it did, and train on it"
	@echo "make test   set up, then lint, type-check and test"
	@echo "make clean  remove what the two made"

demo: setup java
	@rm -rf demo/out demo/gopher demo/tokenizer demo/tokens demo/mixed demo/model
	$(BIN)/crawlmill sample demo/web
	$(BIN)/crawlmill run --recipe default --input demo/web --output demo/out --tolerate 0.25 \
		--benchmarks demo/web/benchmarks.yaml
	$(BIN)/crawlmill explain demo/out
	$(BIN)/crawlmill decontaminate show demo/out
	$(BIN)/crawlmill redecide demo/out --recipe gopher --output demo/gopher
	$(BIN)/crawlmill tokenizer train demo/out --output demo/tokenizer --vocab-size 4096
	$(BIN)/crawlmill tokenize demo/out --tokenizer demo/tokenizer --output demo/tokens
	$(BIN)/crawlmill mix demo/web/mix.yaml --output demo/mixed
	$(BIN)/crawlmill train --config demo/web/train.toml

test: setup java lint types tests

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet . || (echo "run: $(BIN)/ruff format ."; exit 1)

types:
	$(BIN)/mypy

tests:
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		(echo "Crawlmill needs Python 3.11 or newer; name one with: make PYTHON=python3.12 …"; exit 2)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[s3,http,train,test]'
	@echo "compiling the kernels, once"
	@$(BIN)/python -c "import pyarrow; from pipeline.recipe import load_recipe; from pipeline.signals import measure; \
		from pipeline.dedup.local import deduplicate, repeated_lines; measure(pyarrow.array(['a text']), load_recipe('default')); \
		deduplicate(['one text of five words', 'one text of five words here']); repeated_lines(['a', 'b'], 1); \
		from pipeline.signals.pii import Detector; Detector().find(pyarrow.array(['call (212) 555-0188'])); \
		from pipeline.contamination.local import search; search(pyarrow.array(['who keeps the lamp of the mill']), \
			[{'item': '1', 'question': 'who keeps the lamp of the mill'}])"
	@touch $@

# Spark needs a JVM of 17 or newer. Installed with apt where that is allowed, else the user is told how.
java:
	@version=$$( ("$${JAVA_HOME:+$$JAVA_HOME/bin/}java" -version 2>&1 || true) | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1); \
	if [ "$${version:-0}" -ge 17 ]; then exit 0; fi; \
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && apt-get install -y -qq openjdk-17-jre-headless; \
	else \
		echo "Crawlmill needs Java 17 or newer (found: $${version:-none}). Install it, for example:"; \
		echo "  sudo apt-get install openjdk-17-jre-headless     (Debian, Ubuntu)"; \
		echo "  brew install openjdk@17                          (macOS)"; \
		echo "or set JAVA_HOME to one, and run the same command again."; exit 2; \
	fi

clean:
	rm -rf $(VENV) demo build *.egg-info
