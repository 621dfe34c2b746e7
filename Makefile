# The two commands of the README are `make up` and `make test`.

# One flavour of build everywhere, so that nothing is compiled twice: without
# cgo, which also spares a fresh machine a C compiler.
export CGO_ENABLED := 0
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# urfave/cli can write man pages; the parser for that costs every start 0.3 ms.
GOBUILD := go build -trimpath -buildvcs=false -tags urfave_cli_no_docs
LDFLAGS := -s -w -X main.version=$(VERSION)
SUDO    := $(if $(filter-out 0,$(shell id -u)),sudo)
EMBED   := pkg/embedded/files

# The state folder that the recipes' tests keep: `make bench` weighs its images.
RECIPES_STATE := $(or $(SANDBOX_TEST_IMAGES),$(HOME)/.cache/sandbox/images)

# Packages that are tested in the virtual machine as well: those that talk to
# the kernel, and the commands' own tests.
VM_PACKAGES := ./pkg/linux/...,./pkg/runtime/...,./pkg/engine/...,./cmd/...

# Packages that use the whole machine for minutes, one after another, when all
# others are done: the recipes first, for the others run what they have built.
SLOW_PACKAGES := ./images,./pkg/stack/...,./sandbox/stack/...

.PHONY: build assets up test bench conformance lint clean setup setup-test

build: assets
	@$(GOBUILD) -ldflags '$(LDFLAGS)' -o bin/sandbox ./cmd/sandbox

# What `sandbox` carries inside. go build leaves an up-to-date file alone.
assets: bin/sandbox-runtime $(EMBED)/toolbox.tar.gz $(EMBED)/recipes.tar.gz

.PHONY: bin/sandbox-runtime
bin/sandbox-runtime:
	@$(GOBUILD) -ldflags '$(LDFLAGS)' -o $@ ./cmd/sandbox-runtime
	@cmp -s $@ $(EMBED)/$(@F) || cp $@ $(EMBED)/

$(EMBED)/toolbox.tar.gz: scripts/build-toolbox $(shell find images/toolbox -type f 2>/dev/null)
	@scripts/build-toolbox $@

$(EMBED)/recipes.tar.gz: scripts/pack-recipes/main.go $(shell find images pkg/recipe/bundle -type f 2>/dev/null)
	@go run ./scripts/pack-recipes images $@

setup:
	@scripts/setup-host
setup-test:
	@scripts/setup-host --test

up: setup build
	@$(SUDO) bin/sandbox up

test: setup-test build
	@go vet ./...
	@go run ./scripts/test -vm $(VM_PACKAGES) -timeout 12m -slow $(SLOW_PACKAGES) -slow-timeout 75m $(if $(RUN),-run '$(RUN)') ./...

# The OCI's own tests of a runtime, ours beside runc and crun.
conformance: setup-test bin/sandbox-runtime
	@scripts/conformance

BENCH_ALONE := unshare --mount --pid --net --fork --kill-child --mount-proc --propagation private
STORE := $(if $(wildcard $(RECIPES_STATE)/images/index.json),-store $(RECIPES_STATE))
bench: setup-test build
	@$(GOBUILD) -o bin/ ./scripts/bench ./scripts/runc-within-bounds sigs.k8s.io/kind
	@scripts/with-cgroup2 bin/bench runtimes
	@$(SUDO) $(BENCH_ALONE) bin/bench engines
	@$(SUDO) $(BENCH_ALONE) bin/bench $(STORE) images
	@$(if $(STORE),$(SUDO) $(BENCH_ALONE) bin/bench $(STORE) stacks,echo 'no stack without the images of the recipes: go test ./images -run TestRecipes')

lint:
	@scripts/lint

clean:
	rm -rf bin $(EMBED)/sandbox-runtime $(EMBED)/toolbox.tar.gz $(EMBED)/recipes.tar.gz
