# What people type. Everything runs in .venv, made from pinned, hashed requirements.
PYTHON := .venv/bin/python
UV := .venv/bin/uv
OUT ?= out/demo
JOB ?= imagenet

.PHONY: demo submit test lint audit lock bench clean

demo: .venv/ready  ## classify the bundled sample and print its accuracy
	$(PYTHON) -m jobs.imagenet --data jobs/sample/images --model jobs/sample/model --out $(OUT) --overwrite

submit: .venv/ready  ## a job on a cluster, followed to its end: make submit JOB=imagenet ARGS="--data ... --out ..."
	$(PYTHON) -m cluster.submit jobs.$(JOB) $(ARGS)

test: .venv/ready lint  ## lint, types and every test that needs neither silicon nor patience
	$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

audit: .venv/ready  ## pins against today's vulnerability database (needs a network), then the checks that need none
	$(PYTHON) -m pip_audit --require-hashes --disable-pip -r requirements.txt
	$(PYTHON) -m pytest tests/audit

bench: .venv/ready  ## every benchmark, one after the other; figures, never a pass or fail
	for name in startup overlap pipeline driver peer; do $(PYTHON) -m tests.benchmarks.$$name || exit 1; done

lock:  ## pin what requirements.in and requirements-dev.in ask for
	for name in requirements requirements-dev; do \
	  UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile -q --generate-hashes $$name.in -o $$name.txt; done

clean:
	rm -rf .venv out .mypy_cache .ruff_cache .pytest_cache

# uv installs ten times as fast as pip and compiles bytecode, without which every Ray worker starts seconds later.
.venv/ready: requirements-dev.txt requirements-uv.txt
	python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --require-hashes -r requirements-uv.txt
	SSL_CERT_FILE=$${SSL_CERT_FILE:-$$PIP_CERT} $(UV) pip install --quiet --python $(PYTHON) --require-hashes --compile-bytecode -r requirements-dev.txt
	touch $@
