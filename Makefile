.PHONY: check format test quality coverage wheel oldest licences

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

quality:  ## all that is checked before a release; takes long
	.ci/quality

coverage wheel oldest licences:
	.ci/quality $@
