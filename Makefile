# The two commands of a newcomer are `make run` and `make test`; nothing else has to be installed by hand.
# tramline itself fetches the pinned Deno and, where the system has no Postgres 15 or newer, a pinned Postgres, by npm.

.DEFAULT_GOAL := help
.PHONY: help run test torture churn bench fmt lint ci clean prerequisites

# what `make run` starts; another project: make run PROJECT=path/to/it
PROJECT ?= examples/crm

# how long `make torture` and `make churn` go on; the former with how many nodes, and runs per fault; SEED repeats its workload and its faults of
# another time
MINUTES ?= 10
NODES ?= 3
BATCH ?= 200

help:
	@echo "make run     build tramline and run examples/crm (PROJECT=… for another)"
	@echo "make test    run the whole test suite"
	@echo "make torture a mixed workload under random faults (MINUTES=10 NODES=3 BATCH=200 SEED=…)"
	@echo "make churn   deploys, crashes and ends: of functions in a host, then in a whole node, counting what is left of them (MINUTES=10 of each)"
	@echo "make bench   measure on this machine, beside the peers; writes bench/results/latest.json"
	@echo "make lint    what CI checks before the tests"
	@echo "make fmt     format the code"
	@echo "make clean   remove what was built, and the local data of the examples"

prerequisites:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "a C compiler is missing: install one (Debian: apt install build-essential)" >&2; exit 1; }
	@command -v npm >/dev/null || { echo "npm is missing: install Node.js with npm (Debian: apt install npm); Deno is fetched by it" >&2; exit 1; }

run: prerequisites
	cargo build --release --package tramline
	exec target/release/tramline dev $(PROJECT)

test: prerequisites
	cargo build --package tramline
	cargo test --workspace

torture: prerequisites
	TRAMLINE_TORTURE_MINUTES=$(MINUTES) TRAMLINE_TORTURE_NODES=$(NODES) TRAMLINE_TORTURE_BATCH=$(BATCH) $(if $(SEED),TRAMLINE_TORTURE_SEED=$(SEED)) \
	  cargo test --package tramline-engine --test it torture::for_a_chosen_time -- --exact --ignored --nocapture

churn: prerequisites
	TRAMLINE_CHURN_MINUTES=$(MINUTES) \
	  cargo test --package tramline-host --test it churn::host_that_lives_through_churn -- --exact --ignored --nocapture
	TRAMLINE_CHURN_MINUTES=$(MINUTES) \
	  cargo test --package tramline --test it churn::for_a_chosen_time -- --exact --ignored --nocapture

lint: prerequisites
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings

fmt: prerequisites
	cargo fmt

ci:
	.ci/run

bench: prerequisites
	bench/run

clean:
	cargo clean
	rm -rf examples/*/.tramline
