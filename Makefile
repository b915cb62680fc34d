# What people do with Muster. Every target installs what it lacks and builds nothing twice.

MUSL  := x86_64-unknown-linux-musl
CARGO ?= cargo
BUILD := $(or $(CARGO_TARGET_DIR),target)
# Where cargo unpacks crates.
CRATES := $(or $(CARGO_HOME),$(HOME)/.cargo)/registry/src
# What the agent may have at most.
AGENT_BYTES := 2500000

# ring's C is plain enough for the ordinary compiler.
export CC_x86_64_unknown_linux_musl := gcc
# What Debian keeps out of an ordinary user's PATH.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
# Cargo shares the processors out by itself; what it would find here is not open to it.
unexport MAKEFLAGS MFLAGS

# The programs and what `make run` and `make bench` are.
DEBUG := build --locked -p muster-controller -p muster-tests

TESTS := --workspace --locked --offline --no-fail-fast

# Tests enter network namespaces: root may, and so may anyone in a user namespace of his own.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,unshare --user --map-root-user)

.PHONY: help run test test-programs test-systems install-test cuts-test lint bench release fuzz fuzz-briefly build image agent debug setup

# What strangers, hardware, disks, publishers of images, and servers on a machine's network say is read by these; see
# fuzz/fuzz_targets.
FUZZ := frames enrollment ticket boot_query tpm leases disks qcow2
# No sanitizer, so that the pinned compiler is enough: there is no unsafe code to look into, and a panic, an overflow, a
# hang or too much memory is a crash all the same.
FUZZING := --sanitizer none --codegen-units 16
# How long each is run.
SECONDS ?= 600

help:
	@echo 'make run          a controller, a site ISO, a virtual machine booted from it, and what Cycle would do with it'
	@echo 'make run ONCE=1   the same, then stops; succeeds only if every step held'
	@echo 'make test         format, lints, and every test, those that boot virtual machines included'
	@echo 'make install-test installs a Debian on a virtual machine and starts it from its disk by either firmware; minutes'
	@echo 'make cuts-test    cuts the power at every flush of mdadm, cryptsetup and LVM, where make test has some of them; long'
	@echo 'make lint         format and lints alone'
	@echo 'make fuzz         arbitrary bytes for every decoder, 10 minutes each; SECONDS=60 is another time'
	@echo 'make bench        sizes, memory and times, each beside its floor; PARTS=ial measures that part alone'
	@echo 'make build        $(BUILD)/release/muster and the agent'
	@echo 'make image        build/image: kernel and initramfs'

run: image
	@$(BUILD)/debug/muster-run $(if $(ONCE),--once)

# What tests are made of is what they start as well, with the same features: nothing is compiled twice.
test test-programs test-systems: DEBUG := test --workspace --locked --no-run
test: test-programs test-systems

# Every test program but one; `[!s]*` and its like say so to cargo, which can only choose. By `make -j2` they run beside
# the machines: many of them wait more than they work.
test-programs: lint fuzz-briefly image build/python/venv/installed
	@$(AS_ROOT) $(CARGO) test $(TESTS) --lib --bins --test '[!s]*' --test 's[!y]*'

# The one that boots machines.
test-systems: lint fuzz-briefly image build/python/venv/installed
	@$(AS_ROOT) $(CARGO) test $(TESTS) --test system || \
		{ echo 'consoles, logs and disks of every machine that was booted: build/tests/*/'; exit 1; }

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

# What crashed lies in fuzz/artifacts, and is run again by: cargo fuzz run --sanitizer none TARGET FILE
# Briefly: on what was found before, where there is something, and on the seeds.
fuzz-briefly: SECONDS := 10
fuzz fuzz-briefly: setup
	@scripts/setup fuzz
	$(CARGO) fuzz build $(FUZZING)
	@for target in $(FUZZ); do \
		echo "fuzzing $$target for $(SECONDS) s"; \
		$(CARGO) fuzz run $(FUZZING) $$target -- -max_total_time=$(SECONDS) -max_len=65536 -len_control=20 \
			-rss_limit_mb=512 -timeout=10 -verbosity=0 -print_final_stats=1 || exit 1; \
	done

# Calls of Cycle's are timed in the controller as it is released, with clients and bare servers that are as fast.
bench: image $(if $(filter ial,$(or $(PARTS),ial)),release)
	@$(BUILD)/debug/muster-bench $(PARTS)

release: setup
	@$(CARGO) build --release --locked -p muster-controller -p muster-load

build: agent
	$(CARGO) build --release --locked -p muster-controller

# The image is made anew only where the agent, the packages or the program that makes it are others.
image: agent debug build/packages build/netplan
	@$(BUILD)/debug/muster image build --agent $(BUILD)/$(MUSL)/agent/muster-agent --output build/image

# The operating system that a test installs: made once, and anew where the script is another. Most of it is waiting for
# Debian's packages.
build/system/system.qcow2: scripts/system-image | setup
	@echo 'building the system that tests install'
	@scripts/system-image build/system

# Not part of `make test`, whose time is short.
install-test: image build/system/system.qcow2
	@$(AS_ROOT) $(CARGO) test --workspace --locked --offline --test system -- --ignored an_image_is_installed

# Not part of `make test` either, which goes on from some of these power cuts.
cuts-test: image
	@$(AS_ROOT) $(CARGO) test --workspace --locked --offline --test system -- --ignored at_every_flush

# Tests build ISOs in namespaces, where there is no network: what an ISO is made of is fetched here, by making one.
build/packages: | debug
	@mkdir -p build
	@$(BUILD)/debug/muster iso build --location lab1 --controller 10.0.2.2 --without-credential --output build/lab.iso
	@touch $@

# Programs of others that tests are held against: BMCs, and schemathesis.
build/python/venv/installed: scripts/python-requirements.txt scripts/setup | setup
	@scripts/setup python

# netplan's own examples, which documents are tested with.
build/netplan: | debug
	@$(BUILD)/debug/muster-examples $@

# The smallest agent; the other profiles are for reading its backtraces. Its panics name crates, not where they lie here.
# It lies in the RAM of every machine: what makes it larger than this has to make something else smaller.
agent: setup
	@$(CARGO) fetch --quiet --locked
	@RUSTFLAGS="$$(printf -- ' --remap-path-prefix=%s=' $(CRATES)/*/)" \
		$(CARGO) build --profile agent --target $(MUSL) --locked -p muster-agent
	@bytes=$$(stat -c %s $(BUILD)/$(MUSL)/agent/muster-agent); [ $$bytes -le $(AGENT_BYTES) ] || \
		{ echo "the agent has $$bytes bytes; it may have $(AGENT_BYTES)" >&2; exit 1; }

debug: setup
	@$(CARGO) $(DEBUG)

setup:
	@scripts/setup
