# One verb a line. Each makes the environment it needs, once; `make PYTHON=/path/to/python3` chooses another Python.
.PHONY: help demo test fuzz check format proto bench docs image containers lock clean
.DEFAULT_GOAL := help
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHON
bin := .venv/bin

help: ## what can be made
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' Makefile | expand -t 14
demo: .venv/.server ## start a server and tour its derivatives, each beside its closed form
	@$(bin)/python -m gradwire.demo
test: .venv/.server,test ## run the tests, two files at a time; ARGS="-k chain" narrows them, ARGS="-n 0" runs one at a time
	@$(bin)/python -m pytest -q -n 2 --dist loadfile $(ARGS)
fuzz: .venv/.server ## send a server mutated requests for five minutes; ARGS="--count 200000" sends so many instead
	@$(bin)/python bench/fuzz.py $(or $(ARGS),--seconds 300)
check: .venv/.server,check ## lint, format, types, import contracts, protos: changes nothing
	@$(bin)/ruff check && $(bin)/ruff format --check && $(bin)/mypy && $(bin)/lint-imports
	@$(bin)/buf lint proto && $(bin)/buf format proto --diff --exit-code
format: .venv/.server,check ## format, and fix what can be fixed by itself
	@$(bin)/ruff check --fix-only && $(bin)/ruff format && $(bin)/buf format proto --write
proto: .venv/.server ## regenerate the code in proto/gradwire_proto/v1
	@$(bin)/python -m gradwire_proto
bench: .venv/.server ## run the benchmarks
	@for each in bench/[a-z]*.py; do $(bin)/python $$each || exit 1; done
docs: .venv/.server ## regenerate the pages of docs/ that are made from the code
	@$(bin)/python docs/generate.py
image: ## build the image of the server
	@deploy/build
containers: .venv/.server,test,containers ## test image, compose file, chart and replicas; starts a container engine where none answers
	@.ci/tools && .ci/engine $(bin)/python -m pytest -q tests/containers $(ARGS)
lock: .venv/bin/python ## choose the packages of the images again, with their hashes
	@$(bin)/python deploy/lock.py
clean: ## remove environments and caches
	@rm -rf .venv .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist

# An environment's stamp .NAMES tells that the extras NAMES are installed in it.
.venv/bin/python:
	@.ci/venv .venv
.venv/.%: .venv/bin/python pyproject.toml .ci/constraints.txt
	@echo "installing gradwire[$*] into .venv (once; about a minute)"
	@$(bin)/python -m pip install -qq -c .ci/constraints.txt -e ".[$*]" && touch $@
