# `make demo` and `make test` need Python >= 3.11, make and a package index; nothing else.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench format clean

# Runs again when the dependencies change.
.venv/installed: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'vitlora needs Python 3.11 or newer')"
	$(PYTHON) -m venv .venv
	@echo "installing into .venv: several GB, a few minutes"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

demo: .venv/installed
	@echo "1/3  drawing pictures of five kinds of waste: python -m vitlora fetch waste5-drawn"
	@$(BIN)/python -m vitlora fetch waste5-drawn
	@echo "2/3  fine-tuning: python -m vitlora fit --config demo.yaml"
	@$(BIN)/python -m vitlora fit --config demo.yaml
	@echo
	@echo "3/3  predicting a picture that training never saw:"
	@echo "     python predict.py datasets/waste5-drawn/test/tyre/000.jpg"
	@$(BIN)/python predict.py datasets/waste5-drawn/test/tyre/000.jpg
	@echo
	@echo "next, with your own photos in class folders (photos/train/cat, photos/val/cat, ...):"
	@echo "     . .venv/bin/activate"
	@echo "     python -m vitlora fit --config demo.yaml --data.root photos --output checkpoints/photos"
	@echo "     python predict.py PHOTO.jpg"

# Two processes, a thread each: more would share memory that a laptop may not have.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

# DATA: TrashNet; WEIGHTS: ViT-Tiny's .safetensors. Without them some are left out.
bench: .venv/installed
	$(BIN)/python benchmarks/bench.py --data "$(DATA)" --weights "$(WEIGHTS)"

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info
