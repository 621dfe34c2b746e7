// Command sandbox is the whole product in one binary: the command line, and
// the daemon that it starts. Here its parts are put together, and nothing else
// is done.
package main

import (
	"context"
	"os"
	"runtime"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/cli"
	"github.com/sandboxlabs/sandbox/pkg/state"
	"github.com/sandboxlabs/sandbox/pkg/ui"
)

// version and commit are set by the linker.
var (
	version = "devel"
	commit  = ""
)

func main() { os.Exit(run()) }

func run() int {
	dirs := state.Default()
	return cli.Main(context.Background(), cli.Deps{
		Term:     ui.NewStd(os.Stdin, os.Stdout, os.Stderr, os.Getenv),
		Version:  thisVersion(),
		StateDir: dirs.Root, RunDir: dirs.Run,
		Host: func(stateDir, runDir string) cli.Host {
			return newMachine(state.Dirs{Root: stateDir, Run: runDir})
		},
	}, os.Args[1:])
}

func thisVersion() api.Version {
	return api.Version{Version: version, Commit: commit, GoVersion: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
}
