# Every task is one target; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

# GO_TEST prints go test's own lines; hack/gotest.sh fails when a test was skipped.
GO_TEST := hack/gotest.sh
TOOL := go -C test/upstream tool -n

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Compile bin/nodeimg and bin/buildkitd
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/nodeimg
	CGO_ENABLED=0 go build -trimpath -o bin/ github.com/moby/buildkit/cmd/buildkitd

.PHONY: test
test: deps build ## Run all tests: unit, integration, end to end, end to end on cgroup v2
# What takes longest begins first. The emulated machine needs both processors, so it comes when nothing else runs.
	@status=0; \
	$(GO_TEST) -skip '^TestVM' ./test/clusters/... ./test/e2e/... ./test/stock/... ./... || status=1; \
	$(GO_TEST) -run '^TestVM' ./test/e2e/... || status=1; \
	exit $$status

.PHONY: unit
unit: ## Run the tests that need no daemon and no root
	$(GO_TEST) ./recipes/... ./dockerfiles/... ./internal/...

.PHONY: e2e
e2e: deps build ## Boot built images as nodes, make clusters of them, and run the stock tools on them
	$(GO_TEST) -skip '^TestVM' ./test/clusters/... ./test/e2e/... ./test/stock/...

.PHONY: conformance
conformance: deps build ## Compare what containers see in nodes with what containerd makes of the same images
	$(GO_TEST) ./test/conformance/...

.PHONY: e2e-vm
e2e-vm: deps build ## The same on cgroup v2, in an emulated machine
	$(GO_TEST) -run 'TestVM' ./test/e2e/...

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (30s)
	hack/fuzz.sh

.PHONY: lint
lint: deps ## Check format, vet, staticcheck, shellcheck, generated files, import directions
	hack/lint.sh

.PHONY: fmt
fmt: ## Format the Go code
	gofmt -w $$(git ls-files '*.go')

.PHONY: generate
generate: ## Write the generated files anew
	go generate ./...

.PHONY: docs
docs: ## Write the generated reference pages anew
	go generate ./cmd/...

.PHONY: bench
bench: ## Run the benchmarks
	go test -run '^$$' -bench . -benchmem ./...

.PHONY: quickstart
quickstart: deps build ## Build the first node image, out/k8s-node
	hack/quickstart.sh

.PHONY: deps
deps: ## Install the distribution packages that building and testing need
	hack/deps.sh

.PHONY: engine
engine: ## Start a Docker Engine and print export DOCKER_HOST=…
	@go run ./test/cmd/engine start

.PHONY: engine-stop
engine-stop: ## Stop that Docker Engine and remove everything in it
	@go run ./test/cmd/engine stop

.PHONY: clean
clean: ## Remove what building left in the checkout
	rm -rf bin out
