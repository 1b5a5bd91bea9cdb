# Two commands matter: `make demo` runs the main job, `make test` passes the tests. Both install what is missing.

VENV ?= .venv
MARK ?= not verify
PYTEST_ARGS ?=
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TORCH := $(shell grep -i '^torch==' constraints.txt)

.PHONY: demo test verify bench lint types install lock reservoir alps_clouds eurosat romania_forest clean

demo: $(INSTALLED)
	$(BIN)/olmoearth demo demo

test: $(INSTALLED)
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile -m "$(MARK)" $(PYTEST_ARGS)

verify: $(INSTALLED)  ## the same proofs at full size; leaves JSON in build/verify
	$(BIN)/pytest -m verify --results-json build/verify/results.json

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

install: $(INSTALLED)

# torch comes first and alone: the plain index would bring gigabytes of CUDA packages (docs/decisions/0001)
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt s2cloudless  # its model, not its web client
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -q -j 0 $(VENV)/lib > /dev/null || true
	touch $@

lock:  ## renew constraints.txt: resolve pyproject.toml afresh in an environment of its own, write every version down
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet $(TORCH)
	build/lock/bin/pip install --quiet ".[dev]"
	build/lock/bin/pip check
	build/lock/bin/pip install --quiet --no-deps s2cloudless
	build/lock/bin/pip freeze --exclude olmoearth-platform > constraints.txt

reservoir: $(INSTALLED)  ## the reference project on real data: needs OLMOEARTH_TEST_DATA
	test -n "$(OLMOEARTH_TEST_DATA)" || { echo "Set OLMOEARTH_TEST_DATA to the folder of real data sets."; exit 1; }
	ln -sfn "$(abspath $(OLMOEARTH_TEST_DATA))/reservoir" projects/reservoir/source
	$(BIN)/olmoearth run projects/reservoir

alps_clouds: $(INSTALLED)  ## clouds over two neighbouring tiles: needs OLMOEARTH_TEST_DATA
	test -n "$(OLMOEARTH_TEST_DATA)" || { echo "Set OLMOEARTH_TEST_DATA to the folder of real data sets."; exit 1; }
	ln -sfn "$(abspath $(OLMOEARTH_TEST_DATA))/alps_clouds" projects/alps_clouds/source
	$(BIN)/olmoearth run projects/alps_clouds

eurosat: $(INSTALLED)  ## patches with a class each, imported: needs OLMOEARTH_TEST_DATA
	test -n "$(OLMOEARTH_TEST_DATA)" || { echo "Set OLMOEARTH_TEST_DATA to the folder of real data sets."; exit 1; }
	$(BIN)/olmoearth import "$(OLMOEARTH_TEST_DATA)/eurosat_200" --to projects/eurosat/source --date 2018-07-01 \
	  --bands B01,B02,B03,B04,B05,B06,B07,B08,B09,B10,B11,B12,B8A
	$(BIN)/olmoearth run projects/eurosat --until finetune

romania_forest: $(INSTALLED)  ## NetCDF cubes and a raster of labels, imported: needs OLMOEARTH_TEST_DATA
	test -n "$(OLMOEARTH_TEST_DATA)" || { echo "Set OLMOEARTH_TEST_DATA to the folder of real data sets."; exit 1; }
	$(BIN)/olmoearth import "$(OLMOEARTH_TEST_DATA)/romania_forest/sentinel2_cube_subset_romania_10m.nc" \
	  "$(OLMOEARTH_TEST_DATA)/romania_forest/sentinel2_cube_subset_romania_20m.nc" \
	  --to projects/romania_forest/source --labels "$(OLMOEARTH_TEST_DATA)/romania_forest/tree_cover_density_2018.tif" \
	  --value tree_cover_density --range 0,100 --unit %
	$(BIN)/olmoearth run projects/romania_forest

clean:
	rm -rf demo build $(VENV)
