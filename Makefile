# make build    bin/aysfs, bin/ays and bin/ays_cache for this machine
# make demo     the whole way, with this machine's Go toolchain (root)
# make test     everything but what takes a machine (root)
# make test-appliance     virtual machines, containers, packages, releases (root)
# make test-faults        networks, disks and machines that fail at random, for minutes (root)
# make fuzz     what reads bytes of others, with bytes of nobody
# make test-arm           what small machines run, in an emulator of theirs (root)
# make vuln     known vulnerabilities in what this is built on
# make bench    measurements, a quarter of an hour of them (root)
# make dist     tarballs and packages in dist/
# make release-snapshot   the same by goreleaser

VERSION := $(or $(shell git describe --tags --always --dirty 2>/dev/null),devel)
COMMIT  := $(or $(shell git rev-parse --short=12 HEAD 2>/dev/null),unknown)
DATE    := $(shell TZ=UTC0 git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ 2>/dev/null)
RELEASE := $(shell { git describe --tags --exact-match || git describe --tags --abbrev=0 | awk -F. -v OFS=. '{ $$NF++; print $$0 "-snapshot" }' | grep . || echo 0.0.1-snapshot; } 2>/dev/null | sed 's/^v//')
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

SCRIPTS     := init/aysfs init/ays_cache $(filter-out %.yaml,$(wildcard init/package/*)) src/e2e/testdata/init.sh \
               $(wildcard src/appliance/testdata/*.sh src/appliance/testdata/*/usr/sbin/* src/appliance/testdata/*/etc/init.d/*)
APPLIANCE   := ./src/appliance ./src/e2e
FAULTS      := ./src/e2e
STATICCHECK := go run honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := go run golang.org/x/vuln/cmd/govulncheck@v1.9.0
TESTFLAGS   ?=
SHELL       := /bin/bash

.PHONY: build demo test test-appliance test-faults fuzz test-arm lint vuln cross unit bench dist release-snapshot deps deps-appliance deps-arm \
        deps-bench deps-bench-apt clean

build:
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/ ./src/cmd/...

demo: build
	go run ./src/e2e/demo

test: deps lint cross unit

lint:
	@files=$$(gofmt -l src); [ -z "$$files" ] || { echo "run gofmt -w on:" $$files; exit 1; }
	go vet ./src/...
	go vet -tags appliance $(APPLIANCE)
	go vet -tags faults $(FAULTS)
	$(STATICCHECK) ./src/...
	$(STATICCHECK) -tags appliance $(APPLIANCE)
	$(STATICCHECK) -tags faults $(FAULTS)
	shellcheck -s sh $(SCRIPTS)
	checkbashisms $(SCRIPTS)

# Of code that is reached; it fails if there is any. The database is Go's own.
VULNDB := https://vuln.go.dev
vuln:
	@if curl -fsS -m 20 -o /dev/null $(VULNDB)/index/db.json; then \
		$(GOVULNCHECK) -db $(VULNDB) ./src/...; \
	else \
		echo "vuln: skipped, because the database of vulnerabilities, $(VULNDB), can't be reached"; \
	fi

# What runs on small machines must at least compile for them, tests included.
cross:
	GOARCH=arm GOARM=6 CGO_ENABLED=0 go build ./src/...
	GOARCH=arm GOARM=7 CGO_ENABLED=0 go vet ./src/...
	GOARCH=arm64 CGO_ENABLED=0 go vet ./src/...

# The race detector needs a C compiler. -count=1: the end-to-end tests build
# programs, which go test does not see when it looks for cached results.
unit:
	go test -race -count=1 -timeout 25m $(TESTFLAGS) ./src/...

# The tests named TestAppliance, which only the tag builds.
test-appliance: deps deps-appliance
	go test -p 1 -tags appliance -run '^TestAppliance' -count=1 -timeout 40m $(TESTFLAGS) $(APPLIANCE)

# The tests named TestFaults, which only the tag builds. What is random in them
# comes from a seed that they print.
test-faults: deps
	go test -p 1 -tags faults -run '^TestFaults' -count=1 -timeout 20m $(TESTFLAGS) $(FAULTS)
	@$(MAKE) --no-print-directory fuzz

# Every fuzz target in turn, for a number of inputs; a target that finds something
# leaves the input below its package's testdata, to be kept. To go on for longer:
# make fuzz FUZZ=60s. What was of interest is kept for the next time. What they write
# lies in memory, where a sync costs nothing.
FUZZ     ?= 1000x
FUZZTMP  := $(or $(TMPDIR),/tmp)/aysfs-fuzz
FUZZKEPT ?= $(FUZZTMP)/kept
fuzz:
	@mkdir -p $(FUZZTMP); targets=0 inputs=0 failed=0; \
	shm=$$(mktemp -d /dev/shm/aysfs-fuzz.XXXXXX 2>/dev/null || mktemp -d); trap 'rm -rf "$$shm"' EXIT; \
	for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' src | xargs -n 1 dirname | sort -u); do \
		go test -c -fuzz . -o $(FUZZTMP)/test ./$$dir || exit 1; \
		for name in $$(cd $$dir && $(FUZZTMP)/test -test.list '^Fuzz'); do \
			if (cd $$dir && TMPDIR=$$shm timeout 1h $(FUZZTMP)/test -test.run "^$$name\$$" -test.fuzz "^$$name\$$" -test.fuzztime $(FUZZ) \
				-test.fuzzminimizetime 1s -test.fuzzcachedir $(FUZZKEPT)/$$dir) >$(FUZZTMP)/log 2>&1; then \
				echo "--- PASS: $$name, of $$dir"; \
			else \
				cat $(FUZZTMP)/log; failed=$$((failed + 1)); \
			fi; \
			targets=$$((targets + 1)); \
			n=$$(sed -n 's/.*execs: \([0-9]*\).*/\1/p' $(FUZZTMP)/log | tail -n 1); \
			inputs=$$((inputs + $${n:-0})); \
		done; \
	done; \
	echo "fuzz: $$targets targets, $$inputs inputs, $$failed failed"; [ $$failed = 0 ]

# Packages in which 32 bits, another page size or another order of memory may matter,
# and the programs themselves. Left out is what starts itself anew, for this kernel
# runs no ARM program, and what races against the kernel, which the emulator makes slow.
ARM_TESTS := $(addprefix ./src/,object profile offheap tier/disk publish ledisbolt cachedb fs)
ARM_SKIP  := ^Test(Kill.*|AMove.*|.*Moves)$$
test-arm: deps deps-arm
	CGO_ENABLED=0 GOARCH=arm GOARM=6 go test -exec 'qemu-arm-static -cpu arm1176' -short -skip '$(ARM_SKIP)' -count=1 -timeout 8m $(TESTFLAGS) $(ARM_TESTS)
	CGO_ENABLED=0 GOARCH=arm64 go test -exec qemu-aarch64-static -short -skip '$(ARM_SKIP)' -count=1 -timeout 8m $(TESTFLAGS) ./src/object ./src/tier/disk
	go test -tags appliance -run '^TestArm' -count=1 -timeout 12m $(TESTFLAGS) ./src/e2e

# Tarballs and packages, the same bytes for the same commit.
dist:
	go run ./src/dist -version '$(RELEASE)' -commit '$(COMMIT)' -date '$(DATE)' -to dist

# goreleaser is not installed by this: go install github.com/goreleaser/goreleaser/v2@v2.16.0
# One after another: it packs programs in the order in which they are ready.
release-snapshot:
	RELEASE='$(RELEASE)' COMMIT='$(COMMIT)' DATE='$(DATE)' EPOCH="$$(date -d '$(DATE)' +%s)" goreleaser release --snapshot --clean --parallelism 1

# Peers that can't be had are left out, with a word.
bench: build
	-@$(MAKE) --no-print-directory deps-bench
	PATH=$$(go env GOPATH)/bin:$$PATH:/usr/sbin go run ./src/bench

# Programs that the tests use, from Debian. Nothing happens where all are there.
DEPS           := gcc:gcc nginx:nginx redis-server:redis-server rsync:rsync curl:curl git:git python3:python3 vim:vim nano:nano \
                  patch:patch busybox:busybox pgrep:procps mke2fs:e2fsprogs shellcheck:shellcheck checkbashisms:devscripts
DEPS_APPLIANCE := podman:podman runc:runc qemu-system-x86_64:qemu-system-x86 debootstrap:debootstrap

DEPS_ARM       := qemu-arm-static:qemu-user-static
DEPS_BENCH     := nginx:nginx curl:curl python3:python3 mksquashfs:squashfs-tools squashfuse_ll:squashfuse rclone:rclone \
                  fusermount3:fuse3 sshfs:sshfs

# Peers that Debian has not, or only old: module, version, program.
PEERS          := github.com/folbricht/desync:v1.0.0:desync github.com/restic/restic:v0.18.1:restic

deps deps-appliance deps-arm deps-bench-apt:
	@for p in $(if $(filter deps,$@),$(DEPS),$(if $(filter deps-arm,$@),$(DEPS_ARM),$(if $(filter deps-bench-apt,$@),$(DEPS_BENCH),$(DEPS_APPLIANCE)))); do \
		PATH=$$PATH:/usr/sbin command -v $${p%:*} >/dev/null || missing="$$missing $${p#*:}"; \
	done; \
	if [ -n "$$missing" ]; then \
		[ "$$(id -u)" = 0 ] || { echo "missing:$$missing; install them, or run as root: make deps"; exit 1; }; \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -q && apt-get install -q -y --no-install-recommends $$missing libc6-dev; \
	fi

# An sshd for sshfs is not installed by this: it would start, and stay.
deps-bench: deps-bench-apt
	@to=$$(go env GOPATH)/bin; \
	for p in $(PEERS); do \
		IFS=: read -r module version program <<<"$$p"; \
		[ -x $$to/$$program ] && continue; \
		dir=$$(mktemp -d); echo "go build $$module $$version"; \
		( cd $$dir && go mod init peer 2>/dev/null && go mod edit -require=$$module@$$version && \
		  CGO_ENABLED=0 go build -mod=mod -trimpath -o $$to/ $$module/cmd/$$program ) >$$dir/log 2>&1 || \
			{ tail -n 3 $$dir/log; echo "$$program could not be built; it is left out"; }; \
		rm -rf $$dir; \
	done

clean:
	rm -rf bin dist .demo .bench
