# The two commands of a newcomer are make run and make test. Each sets up
# everything it needs beyond Go and network access.
GO      ?= go
BIN     := bin/pulsegate
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
CRASHES ?= 50

# Tests that wait overlap with those that compute.
JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

# Everything but the race detector is compiled once, with the flags of the binary.
GOFLAGS += -trimpath
export GOFLAGS
export CGO_ENABLED ?= 0

# Payloads and HL7 definitions that the project may not redistribute. Tests read
# them from this directory if it exists, and report it when they skip.
PULSEGATE_FIXTURES ?= $(abspath $(wildcard ../shared/fixtures))
export PULSEGATE_FIXTURES

# Property tests run the same cases each time, so that a change fails for what it does.
# RAPID_SEED=0 draws other cases, as do go test and make test-long.
RAPID_SEED ?= 20261129
export RAPID_SEED

# goreleaser builds archives, checksums and an SBOM for each binary.
GORELEASER := v2.16.0
CYCLONEDX  := v1.10.0
RELEASE    ?= release --snapshot --clean

.PHONY: run app build test check browser redis test-cluster several oracle pair race kill test-long blackbox smoke hostile clients validate vendors bench fuzz generate release comments clean

run: build ## run a demo server on http://localhost:8080 with three invented wearers
	$(BIN) serve --demo --data demo-data --listen 127.0.0.1:8080 --base-url http://localhost:8080

app: build ## serve the sample SMART app on http://localhost:8090, registered with the server of `make run`
	$(GO) run ./conformance/app -bin $(BIN) -data demo-data

build: $(BIN)

.PHONY: $(BIN)
$(BIN):
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/pulsegate

# The lint runs all of vet, so that go test need not run a part of it.
test: build browser redis ## run every suite: lint, oracle, crash tests, fuzz seeds, race detector, smoke test, hostile input
	PULSEGATE_BROWSER=1 PULSEGATE_TEST_BINARY=$(abspath $(BIN)) $(GO) test -vet=off -p $(JOBS) -timeout 25m \
		$$($(GO) list ./... | grep -v /conformance/oracle$$)
	$(MAKE) race
	$(MAKE) -j2 --output-sync=target blackbox ORACLE=60s SEED=$(RAPID_SEED)

blackbox: oracle kill smoke hostile several ## the suites that start servers, and make oracle; -j2 runs two at once

# The long forms of the tests whose default is short so that make test takes minutes.
test-long: RAPID_SEED = 0
test-long: build redis ## property tests, crashes and comparisons with many more cases: about two hours
	$(GO) test ./fhir/store/pebblestore -count 1 -timeout 0 -rapid.checks 500 -crashes 500 -samples 6000 -tier 60 -pair 5m
	$(GO) test ./conformance/enforce -count 1 -timeout 0 -rapid.checks 400 -enforce.three 20
	$(GO) test ./conformance/fleet -count 1 -timeout 0 -rapid.checks 20
	$(GO) test ./conformance/cluster/stores -count 1 -timeout 0 -histories 100
	$(GO) test ./mapping/ingest ./mapping/preferred ./fhir/push ./fhir/cluster/role -count 1 -timeout 0 -rapid.checks 500
	$(MAKE) oracle ORACLE=20m
	$(MAKE) kill CRASHES=500
	$(MAKE) race SHORT=

# The tests of several servers over one log. make test-cluster has the other faults.
several: build redis ## smoke test, hostile input, kills and cuts with three servers, in under four minutes
	$(GO) run ./conformance/smoke -bin $(BIN) -nodes 3
	$(GO) run ./conformance/hostile -bin $(BIN) -nodes 3
	$(GO) run ./conformance/cluster -bin $(BIN) -only 'kill of|cut from MongoDB|cut of the sequencer from MongoDB'

SERVERS := $(if $(MONGODB),-mongodb '$(MONGODB)') $(if $(REDIS),-redis '$(REDIS)')
CLUSTER := ./fhir/store/sharedlog/... ./fhir/cluster/... $(patsubst %,./%/...,$(wildcard conformance/cluster))

test-cluster: build redis ## run the suites of a cluster; MONGODB=URI and REDIS=URL replace the stand-ins by your servers
	PULSEGATE_TEST_MONGODB='$(MONGODB)' PULSEGATE_TEST_REDIS='$(REDIS)' $(GO) test -count 1 -timeout 25m $(CLUSTER)
	$(GO) run ./conformance/cluster -bin $(BIN) $(SERVERS) -skew
	$(GO) run ./conformance/cluster -bin $(BIN) $(SERVERS) -network proxies -only 'network|cut|peers'
	$(GO) run ./conformance/cluster -bin $(BIN) $(SERVERS) -control -only none
	$(GO) run ./conformance/smoke -bin $(BIN) -nodes 3 $(SERVERS)
	$(GO) run ./conformance/hostile -bin $(BIN) -nodes 3 $(SERVERS)
	$(GO) run ./conformance/kill -bin $(BIN) -nodes 3 $(SERVERS) -kills 20

check: ## run vet, lint and every suite in its short form, in under three minutes
	$(GO) vet ./...
	$(GO) test -run 'Format|Length|Imports|Histograms|Clocks|Language|Documents' ./conformance/lint
	$(GO) test -short ./adapters/... ./cmd/... ./fhir/... ./mapping/... ./smart/...

oracle: ## compare documents and samples under random operations for ORACLE (default 10m); SEED repeats a run
	$(GO) test ./conformance/oracle -count 1 -timeout 0 -v -oracle.time $(or $(ORACLE),10m) -oracle.seed $(or $(SEED),0)

browser: ## install the browser that the tests of the pages need
	sh deploy/ensure-chromium.sh

redis: ## install the Redis server that the tests of several servers start
	sh deploy/ensure-redis.sh

pair: ## compare two stores through every method of the contract for PAIR (default 10m)
	$(GO) test ./fhir/store/pebblestore -count 1 -timeout 0 -run 'TestContract$$/pair$$' -pair $(or $(PAIR),10m) -rapid.checks 100000

kill: build ## kill a server CRASHES times (default 50) at random moments, and check that nothing acknowledged is lost
	$(GO) run ./conformance/kill -bin $(BIN) -kills $(CRASHES)

# The packages that start goroutines, or whose tests call them from several.
RACE := ./fhir/store/pebblestore ./fhir/store/sharedlog/... ./fhir/cluster/... ./fhir/audit ./fhir/bulk \
	./fhir/consent ./fhir/interaction ./fhir/limit ./fhir/push ./fhir/series ./fhir/subscription ./fhir/egress \
	./smart/backend ./smart/internal/protocol ./smart/oauth/token ./smart/pages ./smart/people/authn \
	./smart/people/user ./smart/proof/keys ./adapters/link ./adapters/sync ./adapters/pushkey ./adapters/apple \
	./mapping/ingest ./mapping/preferred

# Tests that run in one goroutine, or whose goroutines another test has, too. The race
# detector would only slow them down, so they run without it, in the suites.
SEQUENTIAL := TestSharedContractOfOne|TestContractOfDocuments|TestSalvage|TestDamagedByte|TestFlippedBit|EveryTampered|TestOrdersAre|TestRebuildOrders|TestIdentifiersArePaged|TestSorted|TestDenseNights
SHORT      := -short

race: ## run the concurrent packages under the race detector (installs a C compiler)
	sh deploy/ensure-cc.sh
	CGO_ENABLED=1 $(GO) test -race $(SHORT) -vet=off -p $(JOBS) -skip '$(SEQUENTIAL)' -timeout 25m $(RACE)

clients: build browser ## run fhirclient, fhir-kit-client, @medplum/core and the requests of bulk-data-client against the binary
	PULSEGATE_BROWSER=1 PULSEGATE_TEST_BINARY=$(abspath $(BIN)) $(GO) test -vet=off -count 1 -v ./conformance/clients

validate: build ## run the HL7 validator on goldens, demo data and the CapabilityStatement (installs Maven and a JDK)
	sh deploy/ensure-maven.sh
	$(GO) run ./conformance/validator -bin $(BIN)

smoke: build ## test the binary over HTTP and the command line, in under a minute
	$(GO) run ./conformance/smoke -bin $(BIN)

hostile: build ## send bad input of every kind to a running server, in under a minute
	$(GO) run ./conformance/hostile -bin $(BIN)

vendors: ## count what becomes of every payload below PULSEGATE_FIXTURES; VENDORSFLAGS="-dir DIR -json" reads another directory
	$(GO) run ./conformance/vendors $(VENDORSFLAGS)

bench: build ## print figures with their floors; BENCHFLAGS="-target URL" measures any R4 server
	$(GO) run ./conformance/bench -bin $(BIN) $(BENCHFLAGS)

fuzz: ## run each fuzz target for FUZZTIME (default 30s)
	sh conformance/fuzz.sh $(or $(FUZZTIME),30s)

generate:
	$(GO) generate ./...

release: ## archives, checksums and SBOMs in dist/, as a snapshot of the current commit
	CYCLONEDX=$(CYCLONEDX) $(GO) run github.com/goreleaser/goreleaser/v2@$(GORELEASER) $(RELEASE)

comments: ## five doc comments picked at random, for a reader to judge; SEED=n repeats a choice
	@$(GO) run ./conformance/lint/comments -seed $(or $(SEED),0)

clean:
	rm -rf bin dist demo-data
