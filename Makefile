# The two commands of a newcomer: make run, make test. Each does all its own
# set-up; what is needed beyond Go and network is installed by it.
GO      ?= go
BIN     := bin/pulsegate
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
CRASHES ?= 50

# Payloads and HL7 definitions that are not ours to ship: tests read them where
# they lie beside the project, and say so when they do not.
PULSEGATE_FIXTURES ?= $(abspath $(wildcard ../shared/fixtures))
export PULSEGATE_FIXTURES

.PHONY: run app build test check browser oracle twins race smoke hostile bench fuzz generate clean

run: build ## a demo server on http://localhost:8080 with invented wearers
	$(BIN) serve --demo --data demo-data --listen 127.0.0.1:8080 --base-url http://localhost:8080

app: build ## the sample SMART app on http://localhost:8090, registered with what `make run` runs
	$(GO) run ./conformance/app -bin $(BIN) -data demo-data

build: $(BIN)

.PHONY: $(BIN)
$(BIN):
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/pulsegate

test: build browser ## every suite, lint, the oracle, crash harness, fuzz seeds, race, smoke, hostile input
	PULSEGATE_BROWSER=1 $(GO) test -timeout 25m ./...
	$(MAKE) oracle ORACLE=60s
	$(MAKE) race
	$(GO) run ./conformance/kill -bin $(BIN) -kills $(CRASHES)
	$(MAKE) smoke
	$(MAKE) hostile

check: ## what to run between edits, under three minutes: vet, house rules, every suite in its short form
	$(GO) vet ./...
	$(GO) test -run 'Format|Length|Imports|Histograms|Clocks' ./conformance/lint
	$(GO) test -short ./adapters/... ./cmd/... ./fhir/... ./mapping/... ./smart/...

oracle: ## the same random life on documents and on samples, for ORACLE (default 10m); SEED has a life again
	$(GO) test ./conformance/oracle -count 1 -timeout 0 -v -oracle.time $(or $(ORACLE),10m) -oracle.seed $(or $(SEED),0)

browser: ## what the pages' tests need; with it they fail rather than skip
	sh deploy/ensure-chromium.sh

twins: ## the same below the server: two stores, every method of the contract, streams of any form, for TWINS (default 10m)
	$(GO) test ./fhir/store/pebblestore -count 1 -timeout 0 -run 'TestContract$$/pair$$' -pair $(or $(TWINS),10m) -rapid.checks 100000

# Tests of one goroutine, which the race detector only makes slow. They run
# without it in the suites.
SEQUENTIAL := TestSalvage|TestDamagedByte|TestFlippedBit|EveryTampered|TestOrdersAre|TestSorted|TestDenseNights

race: ## the packages with concurrency in them, under the race detector (needs a C compiler)
	sh deploy/ensure-cc.sh
	CGO_ENABLED=1 $(GO) test -race -short -skip '$(SEQUENTIAL)' -timeout 25m ./fhir/series/... ./fhir/store/... ./fhir/consent/... ./fhir/subscription/... ./fhir/interaction/... ./smart/... ./mapping/ingest/...

smoke: build ## a black box over HTTP and the command line, under a minute
	$(GO) run ./conformance/smoke -bin $(BIN)

hostile: build ## bad input of every kind against a running server, under a minute; -list FILE writes what was tried
	$(GO) run ./conformance/hostile -bin $(BIN)

bench: build ## figures with their floors; -target URL measures any R4 server
	$(GO) run ./conformance/bench -bin $(BIN) $(BENCHFLAGS)

fuzz: ## each fuzz target for FUZZTIME (default 30s)
	sh conformance/fuzz.sh $(or $(FUZZTIME),30s)

generate:
	$(GO) generate ./...

clean:
	rm -rf bin demo-data
