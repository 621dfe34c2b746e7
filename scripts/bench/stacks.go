package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// byHand are the images that by-hand takes from Docker.
var byHand = []string{
	"kind-node", "traefik", "metrics-server", "kube-state-metrics",
	"prometheus", "alertmanager", "node-exporter", "localstack",
}

// stacks measures `sandbox up` beside the same parts brought up by their own
// tools, and its cluster beside kind's; then the memory that it all takes. store
// names a state folder with the recipes' images.
func stacks(tmp string, n int, store string) error {
	if n == 0 {
		n = 3
	}
	if store == "" {
		return errors.New("stacks: the images of the recipes are needed: -store FOLDER")
	}
	undo, err := privateState(tmp)
	if err != nil {
		return err
	}
	defer undo()
	if err := command("cp", "-a", filepath.Join(store, "images"), "/var/lib/sandbox/"); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	programs := filepath.Dir(self)
	settings := map[string]string{
		"PATH": programs + ":" + os.Getenv("PATH"), "KUBECONFIG": filepath.Join(tmp, "kubeconfig"), "HOME": tmp, "CONTENT": "sandbox/stack",
	}
	for name, value := range settings {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	bounded := filepath.Join(programs, "runc-within-bounds")
	dockerd, stop, err := daemon("docker version", "dockerd", "--add-runtime", "bounded="+bounded, "--default-runtime", "bounded")
	if err != nil {
		return err
	}
	defer func() {
		stop()
		removeCgroups("docker")
	}()
	sandbox, stop, err := daemon("bin/sandbox status", "bin/sandbox", "daemon")
	if err != nil {
		return err
	}
	defer func() {
		_ = down() // what is broken is said already
		stop()
		removeCgroups("sandbox")
	}()

	begun := time.Now()
	if err := command("bin/sandbox", "up"); err != nil {
		return err
	}
	fmt.Printf("\nStack: the first `sandbox up`, whose images only sandbox has: %.0f s\n", time.Since(begun).Seconds())
	for _, name := range byHand {
		if err := command("bin/sandbox", "image", "export", name, "--to", "docker"); err != nil {
			return err
		}
	}
	before := func() error { return errors.Join(down(), settle()) }
	for _, c := range []struct {
		title       string
		competitors []*competitor
	}{
		{"Cluster: with Ingress and metrics-server, all pods ready; kind alone has neither, and waits for the node only", []*competitor{
			{name: "sandbox up --only cluster", argv: fixed("bin/sandbox", "up", "--only", "cluster"), before: before},
			{name: "kind create cluster --wait", argv: fixed("scripts/bench/by-hand", "cluster"), before: before},
			{name: "kind create cluster, kind load, kubectl apply, kubectl wait", argv: fixed("scripts/bench/by-hand", "addons"), before: before},
		}},
		{"Stack: all of it", []*competitor{
			{name: "sandbox up", argv: fixed("bin/sandbox", "up"), before: before},
			{name: "kind, kubectl and docker, one after another", argv: fixed("scripts/bench/by-hand", "up"), before: before},
		}},
	} {
		if err := race(n, c.competitors); err != nil {
			return err
		}
		table(c.title, c.competitors)
	}
	if err := errors.Join(before(), command("bin/sandbox", "up")); err != nil {
		return err
	}
	return stackMemory(map[string][]int{"sandbox daemon": {sandbox}, "dockerd and its containerd": append(children(dockerd), dockerd)})
}

// down takes both stacks away. Volumes of ours stay, as `sandbox down` has it.
func down() error {
	return errors.Join(command("scripts/bench/by-hand", "down"), command("bin/sandbox", "down"))
}

// stackMemory prints what docker says of its containers, and the daemons' VmRSS.
func stackMemory(daemons map[string][]int) error {
	out, err := exec.Command("docker", "stats", "--no-stream", "--format", "{{.Name}} | {{.MemUsage}}").Output()
	if err != nil {
		return fmt.Errorf("docker stats: %w", err)
	}
	fmt.Printf("\nMemory of the stack that runs\n\n| | |\n|---|--:|\n")
	for line := range strings.Lines(string(out)) {
		used, _, _ := strings.Cut(line, " / ")
		fmt.Printf("| %s |\n", used)
	}
	for name, pids := range daemons {
		var sum int
		for _, pid := range pids {
			kib, err := resident(pid)
			if err != nil {
				return err
			}
			sum += kib
		}
		fmt.Printf("| %s, VmRSS | %.1f MB |\n", name, float64(sum)*1024/1e6)
	}
	return nil
}
