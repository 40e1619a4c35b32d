# include examples/ci/geofilter.mk, then: make check-data DATA="a.jsonl b.jsonl"
.PHONY: check-data
check-data:
	geofilter scan $(DATA) --quiet
	geofilter gate
