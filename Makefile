# make dev    the whole loop in one process, with a live page
# make test   everything: race detector, real servers, crash tests; installs what it needs
SHELL := /bin/bash
GO ?= go
GOFUMPT := mvdan.cc/gofumpt@v0.12.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
D2 := oss.terrastruct.com/d2@v0.7.2

# What go test -v says, but of the tests that passed only the names of real servers' and of the backends that keep the contract.
brief = awk '/^=== |^PASS$$/ || /^--- PASS/ && !/Contract|TestReal/ || /^ +--- PASS/ && !/Contract[A-Za-z\/]*(classic|consumer) \(/ {next} {print; fflush()}'

.PHONY: dev build test lint bench diagrams clean

dev: build
	bin/millrace dev

build:
	@mkdir -p bin
	@[ -x bin/millrace ] || echo "building bin/millrace; the first time this compiles every dependency and takes a few minutes on two cores" >&2
	$(GO) build -o bin/millrace ./cmd/millrace

test: build
	testenv/install.sh
	@for f in $$(grep -rl '^//go:build real' --include='*_test.go' .); do grep -q '^func TestReal' $$f || { echo "$$f: tests of the real tier are called TestReal..."; exit 1; }; done
	set -o pipefail; $(GO) test -race -v ./... | $(brief)
	set -o pipefail; $(GO) test -tags real -count=1 -v -run '^TestReal' -p 1 -timeout 60m ./... | $(brief)

lint:
	@out=$$($(GO) run $(GOFUMPT) -l .); [ -z "$$out" ] || { echo "gofumpt would change:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags real ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) mod tidy -diff
	@$(GO) run $(GOVULNCHECK) ./... || echo "govulncheck needs its database, which is not reachable from here: not checked" >&2

bench: build
	$(GO) run ./testenv/bench
	$(GO) run ./testenv/bench -collect -events 400000
	$(GO) run ./testenv/bench -sinks -events 1000000
	$(GO) run ./testenv/bench -fresh
	$(GO) run ./testenv/bench -dead -seconds 600
	$(GO) run ./testenv/bench/kinesis

diagrams:
	for f in docs/design/*.d2; do $(GO) run $(D2) --theme 0 --layout elk --pad 20 $$f $${f%.d2}.svg; done

clean:
	rm -rf bin
