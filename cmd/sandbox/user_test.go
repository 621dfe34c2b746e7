package main

import (
	"os/user"
	"strconv"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

func TestInvoker(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(me.Uid)
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	other, _ := strconv.Atoi(nobody.Uid)
	for _, tt := range []struct {
		uid  int
		env  map[string]string
		want *api.User
	}{
		{uid, nil, &api.User{UID: uid, Kubeconfig: me.HomeDir + "/.kube/config"}},
		{0, map[string]string{"SUDO_UID": nobody.Uid}, &api.User{UID: other, Kubeconfig: nobody.HomeDir + "/.kube/config"}},
		{0, map[string]string{"SUDO_UID": "nonsense"}, &api.User{UID: 0, Kubeconfig: "/root/.kube/config"}},
		{0, map[string]string{"SUDO_UID": "4000000000"}, nil},
		{other, map[string]string{"SUDO_UID": "0"}, &api.User{UID: other, Kubeconfig: nobody.HomeDir + "/.kube/config"}}, // not by sudo
		{uid, map[string]string{"KUBECONFIG": "/a/b:/c"}, &api.User{UID: uid, Kubeconfig: "/a/b"}},
		{uid, map[string]string{"KUBECONFIG": "a"}, &api.User{UID: uid, Kubeconfig: me.HomeDir + "/.kube/config"}},
	} {
		got := invoker(tt.uid, func(name string) string { return tt.env[name] })
		if (got == nil) != (tt.want == nil) || got != nil && (got.UID != tt.want.UID || got.Kubeconfig != tt.want.Kubeconfig) {
			t.Errorf("%d, %v: %+v, want %+v", tt.uid, tt.env, got, tt.want)
		}
	}
}
