# Shorthands; every one of them is a command that also stands alone.
#
#   make run [ARGS="-r host /left /right"]   a session (a demo on this machine without ARGS)
#   make test [ARGS="-k rename"]             everything that must pass
#   make check                               the linters alone
#   make native                              cinotify and psync-rsh, in place
#   make wheel                               dist/psync-*.whl
#   make lock                                new pins for requirements/*.txt
#   make bench                               the figures

PYTHON = .venv/bin/python

.PHONY: run test check native wheel lock bench clean

run:
	./scripts/run $(ARGS)

test:
	./scripts/test $(ARGS)

check:
	./scripts/lint

native:
	python3 native.py

wheel: .venv
	$(PYTHON) -m build --no-isolation --wheel

lock:
	./scripts/lock

bench: .venv
	$(PYTHON) -m bench $(ARGS)

.venv:
	./scripts/prepare test

clean:
	rm -rf build dist psync/_bin .mypy_cache .ruff_cache .pytest_cache .coverage
