# make lab           open the course in JupyterLab                       make lab ARGS=--no-browser PORT=9000
# make test          run the tests and the notebooks, in a few minutes    make test PYTHON=python3.13
# make test-all      run what make test leaves out: slow tests, the longest notebooks, solutions, and make test-double
# make test-double   run tests and notebooks on a stand-in for CuPy, without a GPU
# make colab         run notebook 01 with Colab's versions, from the cell that installs the package to the end
# make gpu           run tests, notebooks and benchmarks on a GPU, and install CuPy if it is missing
#                    make gpu PY=python3 uses a Python as it is, with everything installed: no .venv, no network
# make notebooks     run all notebooks and save their outputs, after you have changed code
# make book          make a website of the course in build/book, which needs no network (installs Sphinx)
# make slides        make slides for each meeting of the workshop and the course in build/slides, for use without network
# make pdf           print the whole course into build/minireformer.pdf, with a headless Chromium (which you install)
# make test-browser  check website, slides, and a notebook in Jupyter, in a headless Chromium (which you install)
# make bench         measure time and memory beside the PyTorch Reformers (installs them; half an hour or more)
# make claims        list the rows of docs/claims.md and their minutes, or repeat one: make claims ROW=sharing
# make parity        compare logits and gradients with the PyTorch Reformers (installs them)     make parity N=50
# make poster        draw the poster in docs again, after you have changed its equations or pictures
# make handout       copy what students need, without solutions          make handout TO=handout
# make grade         mark files or folders with the course's checks      make grade NOTEBOOK=handed_in TABLE=marks.csv
#                    a cell may take five minutes; to give it less: TIMEOUT=60
# make nbgrader      make the same course for nbgrader                   make nbgrader TO=course
# make lint          check and format the code and the notebooks
# make workflows     check .github/workflows (installs actionlint)
# make clean         go back to a fresh clone
#
# The first call creates .venv and downloads what pyproject.toml asks for. After that, you can work offline.

PYTHON  ?= python3
PORT    ?= 8888
WORKERS ?= 2
N       ?= 20
REF     ?= main

VENV      := .venv
PY        := $(VENV)/bin/python
INSTALLED := $(VENV)/installed

.PHONY: lab test test-all test-double colab gpu notebooks book slides pdf test-browser browser bench claims parity poster handout grade nbgrader repository lint workflows clean

# In many containers you are root, and Jupyter refuses to run as root unless you allow it.
lab: $(INSTALLED)
	$(PY) -m jupyter lab notebooks --port=$(PORT) $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

# Tests run side by side, so each uses one thread. All cells of a notebook run on the same worker.
test test-all test-double gpu: export OMP_NUM_THREADS := 1
# To stay within minutes, make test leaves these to make test-all. Only make test-double runs the LONGEST on the
# double, too.
LONGEST = notebooks/08_train_a_reformer.ipynb notebooks/10_images.ipynb notebooks/solutions
LATER   = $(LONGEST) notebooks/09_long_text.ipynb notebooks/11_numpy_to_cupy.ipynb
PYTEST = $(PY) -m pytest -n $(WORKERS) --dist loadfile -p nbval --nbval --nbval-current-env --nbval-cell-timeout=300

test: $(INSTALLED)
	$(PYTEST) -m "not slow" tests notebooks $(addprefix --ignore=,$(LATER))

test-all: $(INSTALLED)
	$(PYTEST) -m slow tests
	$(PYTEST) $(LATER)
	@$(MAKE) --no-print-directory test-double LEAVE_OUT="$(LONGEST)"

test-double: $(INSTALLED)
	MINIREFORMER_BACKEND=cupy PYTHONPATH="$(CURDIR)/tests/double$(if $(PYTHONPATH),:$(PYTHONPATH))" $(PYTEST) tests notebooks $(addprefix --ignore=,$(LEAVE_OUT))

# It makes an environment of its own, so any Python will do.
colab:
	@$(PYTHON) tests/on_colab.py $(NOTEBOOK)

# We ask the driver which CUDA it can run. If CuPy is already there, as on Colab, we use it as it is.
gpu: export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
gpu: $(if $(filter $(VENV)/bin/python,$(PY)),$(INSTALLED))
	@$(PY) -c 'import cupy' 2>/dev/null || { \
		cuda=$$(nvidia-smi 2>/dev/null | sed -n 's/.*CUDA [A-Z ]*Version: *\([0-9][0-9]*\).*/\1/p' | head -n 1); \
		test -n "$$cuda" || { echo "No driver of an NVIDIA GPU was found: nvidia-smi is missing or shows no CUDA version." \
			"Without a GPU, make test-double runs the same code on a stand-in for CuPy." >&2; exit 1; }; \
		test "$$cuda" -ge 12 || { echo "The driver runs CUDA $$cuda, and CuPy 14 needs 12 or newer:" \
			"update the driver." >&2; exit 1; }; \
		test "$$cuda" -lt 13 || cuda=13; \
		echo "Installing CuPy for CUDA $$cuda."; \
		$(PY) -m pip install --quiet --editable ".[notebooks,test,gpu$$cuda]"; }
	@$(PY) -c 'from minireformer import backend; backend.use("cupy")'
	MINIREFORMER_BACKEND=cupy $(PYTEST) tests notebooks
	$(PY) benchmarks/speed/gpu.py

notebooks: export OMP_NUM_THREADS := 1
notebooks: $(INSTALLED)
	$(PY) notebooks/execute.py

book: $(INSTALLED)
	$(PY) -c 'import furo, myst_nb' 2>/dev/null || $(PY) -m pip install --quiet --editable '.[book]'
	rm -rf build/book
	$(PY) -m sphinx -q -W --keep-going -c book . build/book
	@echo "Open build/book/index.html."

slides: $(INSTALLED)
	$(PY) -c 'import sphinx_revealjs' 2>/dev/null || $(PY) -m pip install --quiet --editable '.[slides]'
	$(PY) slides/build.py
	@echo "Open build/slides/index.html."

pdf: book browser
	$(PY) book/pdf.py

test-browser: book slides browser
	$(PY) -m pytest tests/browser

browser: $(INSTALLED)
	@test -n "$$(command -v chromium || command -v chromium-browser || command -v google-chrome)" || { \
		echo "No Chromium was found. On Debian and Ubuntu this helps: sudo apt install chromium" >&2; exit 1; }
	$(PY) -c 'import notebook, playwright, pypdf' 2>/dev/null || $(PY) -m pip install --quiet --editable '.[browser]'

bench: $(INSTALLED)
	$(PY) -m pip install --quiet --editable '.[notebooks,parity]'
	$(PY) benchmarks/speed/training_step_by_depth.py --rounds 1
	$(PY) benchmarks/speed/training_step.py
	$(PY) benchmarks/speed/attention.py
	$(PY) benchmarks/speed/generation.py
	$(PY) benchmarks/speed/reverse_task.py
	$(PY) benchmarks/speed/draw.py

# Only the row "speed" needs PyTorch.
claims: $(INSTALLED)
	@test "$(ROW)" != speed || $(PY) -c 'import torch' 2>/dev/null || $(PY) -m pip install --quiet --editable '.[parity]'
	@$(PY) benchmarks/claims.py $(ROW) $(ARGS)

parity: $(INSTALLED)
	$(PY) -c 'import reformer_pytorch, torch, transformers' 2>/dev/null || $(PY) -m pip install --quiet --editable '.[parity]'
	$(PY) benchmarks/speed/parity.py --number $(N)

poster: $(INSTALLED)
	$(PY) -m minireformer.course.poster docs

handout: $(INSTALLED)
	@$(PY) notebooks/handout.py "$(TO)"

grade: $(INSTALLED)
	@$(PY) notebooks/grade.py "$(NOTEBOOK)" $(if $(TABLE),--table "$(TABLE)") $(if $(TIMEOUT),--timeout $(TIMEOUT)) || \
		test $$? -eq 1  # some answers are wrong, which is not an error of make

nbgrader: $(INSTALLED)
	@$(PY) notebooks/nbgrader_course.py "$(TO)"

# A fork can do this first, with any Python 3 and nothing installed.
repository:
	@$(PYTHON) .github/repository.py "$(REPO)" "$(REF)"

lint: $(INSTALLED)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

workflows: $(INSTALLED)
	test -x $(VENV)/bin/actionlint || $(PY) -m pip install --quiet --editable '.[workflows]'
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) -m pytest tests/test_workflows.py

clean:
	rm -rf $(VENV) build *.egg-info .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "minireformer needs Python 3.11 or newer, and '$(PYTHON)' is not one. Name one that is:" \
			"make $(MAKECMDGOALS) PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON) -m venv' does not work here. On Debian and Ubuntu this helps:" \
			"sudo apt install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV). This happens once, and takes a few minutes."
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --editable '.[notebooks,test]'
	@$(PY) -m pip install --only-binary mpi4py,mpich --quiet --editable '.[mpi]' || \
		echo "MPI was not installed, as there are no wheels for this system. Anything that needs it is skipped."
	@touch $@
