# make demo    the main job, on a recorded session
# make check    style, types, layers, and the tests that need nothing but Python: a minute
# make test    these and all other tests, on real kernels' memory: builds it, then 12 minutes
# make gallery    pages (--html) of the recorded sessions, in gallery/, to look at
# make man papers    manual pages from the parsers, output blocks of README and crashext/docs
# make test-browser AXE=axe.min.js    pages in Chromium, judged by axe-core's file; half a minute
# make test-live    leakscan --live in a guest that carries Python; some minutes more
# make test-kernels    the tests on kernels of Debian's other suites, on two with SLAB, on two that note
#                      who allocates, and on one with pages of 64 KiB; fetches 8 GB and compiles
#                      five, each 5 to 25 minutes, once; writes README's table of kernels
# make test-no-debug-info    the same documents with and without vmlinux, on every kernel of those,
#                      guest, form and question: prints a table; an hour
# make test-busy    the tests on a distribution under load; builds it once, 15 minutes
# make test-kmemleak    the tests that need a kernel of our own; compiles it once, 5 to 25 minutes

VENV := .venv
BIN := $(VENV)/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# Tests of one dump stay in one process (tests/conftest.py).
PARALLEL := -n auto --maxprocesses=4 --dist=loadgroup
APT := DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get

.PHONY: demo check gallery pictures browser style test test-busy test-live test-browser test-kernels \
    test-no-debug-info test-kmemleak lab-packages samples papers guests man clean

demo: $(VENV)/installed
	$(BIN)/leakscan -r sample_sessions/many-leaks.session

check: style
	CRASHEXT_NO_LAB=1 $(BIN)/pytest $(PARALLEL)

# No test skips here for the lack of a tool or of a dump: it fails.
test: style lab-packages
	$(BIN)/pytest $(PARALLEL) --durations=25

style: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test-kernels: LAB_SCENARIO := default@arm64 default@slab default@arm64-64k
test-kernels: $(VENV)/installed-dev lab-packages
	CRASHEXT_KERNELS=1 $(BIN)/pytest tests/end_to_end/test_other_kernels.py \
	    --junit-xml=$(VENV)/kernels.xml
	$(BIN)/python -m tests.record_support $(VENV)/kernels.xml
	CRASHEXT_KERNELS=1 $(BIN)/pytest tests/end_to_end/test_callers_by_record.py \
	    tests/end_to_end/test_by_truth.py tests/end_to_end/test_allocation_tags.py \
	    tests/end_to_end/test_many_cgroups.py tests/end_to_end/test_numa.py tests/giant/test_cpus.py

test-no-debug-info: LAB_SCENARIO := default@arm64
test-no-debug-info: $(VENV)/installed-dev lab-packages
	$(BIN)/python -m tests.no_debug_info

test-busy: LAB_SCENARIO := busy
test-busy: $(VENV)/installed-dev lab-packages
	CRASHEXT_BUSY=1 $(BIN)/pytest tests/end_to_end/test_busy_guest.py

test-browser: $(VENV)/installed-dev browser
	CRASHEXT_AXE=$(AXE) $(BIN)/pytest tests/end_to_end/test_html_browser.py \
	    tests/end_to_end/test_html_script.py

browser:
	@dpkg -s chromium-headless-shell >/dev/null 2>&1 || \
	    { $(APT) update && $(APT) install -y chromium-headless-shell fonts-dejavu-core; }

test-kmemleak: LAB_SCENARIO := kmemleak
test-kmemleak: $(VENV)/installed-dev lab-packages
	CRASHEXT_KMEMLEAK=1 $(BIN)/pytest -k kmemleak

test-live: $(VENV)/installed-dev lab-packages
	CRASHEXT_LIVE=1 $(BIN)/pytest tests/trace/test_live_guest.py

# What the lab needs to build its dumps: QEMU, makedumpfile, a compiler.
lab-packages: $(VENV)/installed-dev
	@missing=$$(dpkg-query -W -f '$${db:Status-Abbrev}$${Package}\n' \
	    $$($(BIN)/python -m tests.lab --print-packages $(LAB_SCENARIO)) 2>&1 | grep -cv '^ii'); \
	if [ "$$missing" != 0 ]; then $(APT) update && \
	    $(APT) install -y $$($(BIN)/python -m tests.lab --print-packages $(LAB_SCENARIO)); fi
	@apt-cache show linux-image-amd64 >/dev/null 2>&1 || $(APT) update

# Record sample_sessions/ anew. Their addresses change: so does the transcript from crash
# (`CRASHEXT_PYKDUMP=…/mpykdump64.so python -m tests.record_transcript`), and the papers.
samples: $(VENV)/installed-dev lab-packages
	$(BIN)/python -m tests.record_samples

# Output blocks of README and crashext/docs: what the commands print on sample_sessions/ now.
papers: $(VENV)/installed-dev
	$(BIN)/python -m tests.record_papers

# The table of guests in crashext/docs/tests.md: what is said of each of the lab's dumps.
guests: $(VENV)/installed-dev lab-packages
	$(BIN)/python -m tests.record_guests

# The reports of sample_sessions/ as pages, and a page that leads to them: gallery/index.html.
gallery: $(VENV)/installed-dev
	$(BIN)/python -m tests.record_gallery

# Two pictures of them for README, from Chromium.
pictures: $(VENV)/installed-dev browser
	$(BIN)/python -m tests.record_pictures

# The manual pages say what the parsers say; a test holds them to it.
man: $(VENV)/installed-dev
	$(BIN)/python -m tests.manpages

$(VENV)/bin/python:
	@python3 -c 'import ensurepip' 2>/dev/null || \
	    { $(APT) update && $(APT) install -y python3 python3-venv; }
	python3 -m venv $(VENV)

$(VENV)/installed: pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV)
