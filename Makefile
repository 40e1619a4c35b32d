.PHONY: check format test

check:  ## what must pass before a change goes in
	ruff format --check .
	ruff check .
	mypy
	pytest

format:
	ruff format .
	ruff check --fix .

test:
	pytest
