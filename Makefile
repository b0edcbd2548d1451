# Two commands do everything: `make demo` and `make test`. Both set up what they need on a fresh machine.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test setup java browser lint types tests archive clean help

help:
	@echo "make demo   set up, then run the pipeline on the sample, show what it did, and train on it"
	@echo "make test   set up, then lint, type-check and test"
	@echo "make archive   pack what the machines of a cluster need (docs/cluster.md)"
	@echo "make clean  remove what these made"

demo: setup java
	@rm -rf demo/out demo/gopher demo/tokenizer demo/tokens demo/mixed demo/model
	$(BIN)/crawlmill sample demo/web
	$(BIN)/crawlmill run --recipe default --input demo/web --output demo/out --tolerate 0.25 \
		--benchmarks demo/web/benchmarks.yaml
	$(BIN)/crawlmill explain demo/out
	$(BIN)/crawlmill decontaminate show demo/out
	$(BIN)/crawlmill redecide demo/out --recipe gopher --output demo/gopher
	$(BIN)/crawlmill compare demo/out demo/gopher --examples 0
	$(BIN)/crawlmill tokenizer train demo/out --output demo/tokenizer --vocab-size 4096
	$(BIN)/crawlmill tokenize demo/out --tokenizer demo/tokenizer --output demo/tokens
	$(BIN)/crawlmill mix demo/web/mix.yaml --output demo/mixed
	$(BIN)/crawlmill train --config demo/web/train.toml
	@echo "Look at demo/out/report.html, and into the run with: $(BIN)/crawlmill inspect demo/out --tokens demo/tokens"

# Types are checked beside the tests, three of which go on at a time: many wait for what they have started.
test: setup java browser lint
	@$(MAKE) --no-print-directory -j 2 types tests

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet . || (echo "run: $(BIN)/ruff format ."; exit 1)

types:
	$(BIN)/mypy

tests:
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		(echo "Crawlmill needs Python 3.11 or newer; name one with: make PYTHON=python3.12 …"; exit 2)
	$(PYTHON) -m venv $(VENV)
	@# Python compiles what is imported when it is; pip would compile all of it, for a minute.
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[s3,http,train,test]'
	@echo "compiling the kernels, once"
	@$(BIN)/python docker/kernels.py
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

# The report and the inspector are tested in Chromium: one that is there, else Debian's, of which the headless shell is the
# smallest and the quickest to start. Other tests do without.
browser:
	@for name in "$$CHROMIUM" chromium-headless-shell chrome-headless-shell chromium chromium-browser google-chrome; do \
		if [ -n "$$name" ] && command -v "$$name" >/dev/null; then exit 0; fi; \
	done; \
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq; \
		for name in chromium-headless-shell chromium; do \
			if apt-get install -y -qq --no-install-recommends $$name; then exit 0; fi; \
		done; \
	fi; \
	echo "No Chromium: tests in a browser will be skipped. Install it with: sudo apt-get install chromium-headless-shell"; \
	echo "(Debian; chromium elsewhere), or name one: make test CHROMIUM=/path/to/chrome"

# For clusters on whose machines Crawlmill is not installed: all of it but Spark, which is there, kernels compiled. Numba compares
# times of files to the nanosecond, which this form of tar keeps.
archive:
	rm -rf build/lib build/environment build/crawlmill-env.tar.gz
	$(PYTHON) -m venv build/environment
	build/environment/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt '.[s3,http]'
	rm -rf build/lib
	@echo "compiling the kernels, once"
	@cd build && environment/bin/python -P ../docker/kernels.py
	tar --format=pax --exclude=./lib/python*/site-packages/pyspark --exclude=./lib/python*/site-packages/pip \
		-czf build/crawlmill-env.tar.gz -C build/environment .
	@ls -lh build/crawlmill-env.tar.gz

clean:
	rm -rf $(VENV) demo build *.egg-info
