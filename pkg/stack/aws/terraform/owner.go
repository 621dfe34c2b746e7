package terraform

import (
	"os"
	"syscall"
)

// own gives a file that root has made to the owner of its folder: who runs
// `sudo sandbox` in a folder of his own wants to remove it as himself.
func own(path string, dir os.FileInfo) error {
	st, ok := dir.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return os.Lchown(path, int(st.Uid), int(st.Gid))
}
