//go:build !amd64 && !arm64

package script

// Elsewhere there is no interpreter yet, and a script does not start.
const (
	interpreter = ""
	elfMachine  = 0
	pageSize    = 4096
)
