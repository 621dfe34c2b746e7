package docker

import (
	"os"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
)

func TestMain(m *testing.M) { os.Exit(dockertest.Main(m)) }
