# What people and CI type. `make` alone lists it.

.DEFAULT_GOAL := help
.PHONY: help demo test soak soak-kills soak-history fuzz bench image codex file-systems lint engine engines build

VENV := target/venv

CARGO_FUZZ := target/tools/bin/cargo-fuzz
FUZZ_SECONDS := 60

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1#\2/p' $(MAKEFILE_LIST) | awk -F'#' '{ printf "%-16s %s\n", $$1, $$2 }'

demo: image ## Watch an MCP client call codex_run: real Codex, scripted model, no key needed
	cargo run --release --quiet -- demo

test: image codex file-systems $(VENV)/.installed ## Run all tests; fails if one was left out, or leaves anything
	tests/leftovers.sh before
	CODEX_TESTS_REQUIRE_ENGINE=1 CODEX_TESTS_PYTHON="$(CURDIR)/$(VENV)/bin/python" \
	  CODEX_BIN="$(CURDIR)/target/codex/bin/codex" cargo test
	tests/leftovers.sh after

soak: soak-kills ## Apply changes 100,000 times while an editor saves; no save may be lost
	CODEX_SOAK=100000 cargo test --lib -- --nocapture editor_tests

soak-kills: image ## Kill the server at 200 random moments; nothing may be left and no change be half
	CODEX_KILLS=200 CODEX_TESTS_REQUIRE_ENGINE=1 cargo test --test it -- --nocapture kill_at_random

soak-history: ## Send a repository with more than 2 GiB of history; needs 5 GB of room
	CODEX_HISTORY_MIB=2112 cargo test --test history -- --nocapture a_large_history

fuzz: $(CARGO_FUZZ) ## Feed what takes in a container's bytes with bytes; FUZZ_SECONDS a target
	fuzz/run.sh $(CARGO_FUZZ) $(FUZZ_SECONDS)

bench: image codex ## Measure against bare Codex, a container for each run, and plain ways to write files; the pool; and workspaces on their way
	cargo bench

image: engine ## Build codex-runner:latest if it is missing or old
	docker/build.sh --if-needed $(IMAGE_FLAGS)

# The image's own Codex, for what runs it on the host.
codex: image
	docker/copy-codex.sh target/codex

# What tests mount besides the kernel's own file systems.
file-systems:
	tests/host_fs/setup.sh

engine: ## See that a container engine answers; install and start one where that is allowed
	docker/engine.sh

engines: image ## Run tests against other engines, side by side with this machine's (ENGINES="docker-26 podman")
	tests/engines/run.sh $(ENGINES)

build: ## Build the server: target/release/mcp-codex-orchestrator
	cargo build --release

lint: ## Formatting and clippy, of the host's and of the keeper's half, and of what is fuzzed
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --no-default-features --lib --bin codex-keeper -- -D warnings
	cargo clippy --no-default-features --features intake --lib -- -D warnings

# One test is the official Python SDK as the client.
$(VENV)/.installed: tests/python/requirements.txt
	tests/python/setup.sh $(VENV)
	touch $@

$(CARGO_FUZZ):
	cargo install --quiet --locked --root target/tools --version 0.13.2 cargo-fuzz
