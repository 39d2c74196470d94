# What people run. Each target says what it does and how long it took.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(PATH):/usr/sbin:/sbin

say = @printf '\033[1m==>\033[0m %s\n' "$(1)" >&2

.PHONY: help
help: ## Lists the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: build
build: ## Builds the binary: target/release/mainstay (from cold about 5 minutes on two cores).
	$(call say,building mainstay)
	@time cargo build --release --locked -p mainstay

.PHONY: demo
demo: ## Builds, then runs an agent session end to end, kills the control plane half-way, and cleans up.
	@scripts/prepare demo
	@$(MAKE) --no-print-directory build
	@time target/release/mainstay demo

.PHONY: test
test: ## Installs what the tests need and passes them all (from cold about 15 minutes on two cores).
	@scripts/prepare
	$(call say,building mainstay and its tests)
	@time cargo build --release --locked --workspace --all-targets
	$(call say,running the tests)
	@time cargo test --release --locked --workspace --no-fail-fast
	$(call say,models: thousands of orders of what runs side by side)
	@time cargo test --release --locked -p mainstay-runtime --features shuttle --test models
	@time cargo test --release --locked -p mainstay-store --features shuttle --lib models

.PHONY: lint
lint: ## Format, structure, licences, lints and docs, all warnings denied (from cold about 4 minutes).
	$(call say,format)
	@cargo fmt --all --check
	$(call say,structure: crate arrows; file sizes; rules)
	@scripts/check-structure
	$(call say,licences; bans and sources of dependencies)
	@scripts/prepare lint
	@PATH="$(CURDIR)/target/tools/bin:$$PATH" cargo deny --locked --log-level error check licenses bans sources
	$(call say,lints)
	@time cargo clippy --release --locked --workspace --all-targets -- -D warnings
	$(call say,docs; links to private items are for readers of the source)
	@RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' \
		cargo doc --release --locked --workspace --no-deps --document-private-items -q

.PHONY: bench
bench: ## Takes the figures of docs/benchmarks.md (about 25 minutes).
	@scripts/prepare
	@$(MAKE) --no-print-directory build
	@scripts/bench

.PHONY: drills
drills: ## Kills, parts, freezes and floods servers, backends and databases; writes docs/drills.md (about 90 minutes, SEED=N repeats).
	@scripts/prepare
	@time scripts/drills

.PHONY: manifest
manifest: ## Writes deploy/kubernetes/mainstay.yaml: what the Helm chart gives with its own values.
	@scripts/prepare
	@{ echo '# What deploy/helm/mainstay gives with its own values, in the namespace mainstay: `make manifest` writes it. See docs/operations.md.'; \
		target/tools/bin/python3 crates/mainstay/tests/packaging/render.py deploy/helm/mainstay mainstay mainstay; } > deploy/kubernetes/mainstay.yaml
