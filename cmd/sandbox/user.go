package main

import (
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// invoker is the user behind a process of user uid: under sudo(8) whoever ran
// it. His kubeconfig is the one that his kubectl would write to: the first of
// KUBECONFIG, which sudo takes away, or the one in his home.
func invoker(uid int, getenv func(string) string) *api.User {
	sudo, err := strconv.Atoi(getenv("SUDO_UID"))
	if uid != 0 || err != nil {
		sudo = uid
	}
	u, err := user.LookupId(strconv.Itoa(sudo))
	if err != nil {
		return nil
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil
	}
	out := &api.User{UID: sudo, GID: gid, Kubeconfig: filepath.Join(u.HomeDir, ".kube", "config")}
	if first, _, _ := strings.Cut(getenv("KUBECONFIG"), ":"); filepath.IsAbs(first) {
		out.Kubeconfig = first
	}
	if !filepath.IsAbs(out.Kubeconfig) {
		return nil // a user without a home
	}
	return out
}
