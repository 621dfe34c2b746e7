package cli

import (
	"errors"
	"fmt"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

func fileFlags() []specFlag {
	return []specFlag{
		{name: "volume", short: "v", category: catFiles, placeholder: "SOURCE:TARGET[:OPTIONS]", list: true, usage: "mount a folder or file of the host", example: "/srv/data:/data:ro", fields: []string{"mounts"}, apply: func(r *request, v string, o outside) error {
			m, err := parseVolume(v, o.cwd)
			r.spec.Mounts = append(r.spec.Mounts, m)
			return err
		}},
		{name: "mount", category: catFiles, placeholder: "KEY=VALUE,...", list: true, usage: "the same and more, spelt out: type=bind|tmpfs", example: "type=bind,source=/srv/data,target=/data,readonly", fields: []string{"mounts"}, apply: func(r *request, v string, o outside) error {
			m, err := parseMount(v, o.cwd)
			r.spec.Mounts = append(r.spec.Mounts, m)
			return err
		}},
		{name: "tmpfs", category: catFiles, placeholder: "TARGET[:OPTIONS]", list: true, usage: "mount an empty file system in memory", example: "/tmp:size=64m,mode=1777", fields: []string{"mounts"}, apply: add(parseTmpfs, func(r *request) *[]api.Mount { return &r.spec.Mounts })},
		{name: "read-only", category: catFiles, usage: "make the root file system read-only", fields: []string{"root.readonly"}, apply: on(func(r *request) *bool { return &r.spec.ReadOnly })},
		{name: "shm-size", category: catFiles, placeholder: "SIZE", usage: "size of /dev/shm", example: "64m", fields: []string{"mounts"}, apply: set(func(s string) (int64, error) {
			n, err := parseSize(s)
			if err == nil && n == 0 {
				err = errors.New("the size is zero")
			}
			return n, err
		}, func(r *request) *int64 { return &r.spec.ShmSize })},
		{name: "device", category: catFiles, placeholder: "HOST[:CONTAINER[:rwm]]", list: true, usage: "give access to a device of the host", example: "/dev/fuse", fields: []string{"linux.devices", "linux.resources.devices"}, apply: add(parseDevice, func(r *request) *[]string { return &r.spec.Devices })},
	}
}

func networkFlags() []specFlag {
	return []specFlag{
		{name: "network", aliases: []string{"net"}, category: catNetwork, placeholder: "MODE", usage: "bridge, none, host or container:NAME", example: "none", fields: []string{"network.mode"}, apply: set(parseNetwork, func(r *request) *string { return &r.spec.Network.Mode })},
		{name: "publish", short: "p", category: catNetwork, placeholder: "[IP:]HOST:CONTAINER[/udp]", list: true, usage: "make a port of the container a port of the host", example: "127.0.0.1:8080:80", fields: []string{"network.publish"}, apply: func(r *request, v string, _ outside) error {
			ports, err := parsePublish(v)
			r.spec.Network.Publish = append(r.spec.Network.Publish, ports...)
			return err
		}},
		{name: "hostname", short: "h", category: catNetwork, placeholder: "NAME", usage: "the host name inside", example: "web1", fields: []string{"hostname"}, apply: set(parseHostname, func(r *request) *string { return &r.spec.Hostname })},
		{name: "add-host", category: catNetwork, placeholder: "NAME:IP", list: true, usage: "add a line to /etc/hosts", example: "db:10.0.0.5", apply: add(parseExtraHost, func(r *request) *[]string { return &r.spec.Network.ExtraHosts })},
		{name: "dns", category: catNetwork, placeholder: "IP", list: true, usage: "ask this name server", example: "9.9.9.9", apply: add(parseIP, func(r *request) *[]string { return &r.spec.Network.DNS })},
	}
}

func rightsFlags() []specFlag {
	return []specFlag{
		{name: "cap-add", category: catSecurity, placeholder: "CAPABILITY", list: true, usage: "add a capability, or ALL", example: "NET_ADMIN", fields: []string{"process.capabilities"}, apply: add(parseCapability, func(r *request) *[]string { return &r.spec.CapAdd })},
		{name: "cap-drop", category: catSecurity, placeholder: "CAPABILITY", list: true, usage: "take one away, or ALL", example: "ALL", fields: []string{"process.capabilities", "process.capabilities.bounding"}, apply: add(parseCapability, func(r *request) *[]string { return &r.spec.CapDrop })},
		{name: "security-opt", category: catSecurity, placeholder: "OPTION", list: true, usage: "no-new-privileges, seccomp=unconfined|FILE, apparmor=PROFILE, systempaths=unconfined", example: "no-new-privileges", apply: func(r *request, v string, o outside) error {
			option, err := parseSecurityOpt(v, o)
			if err != nil {
				return err
			}
			r.spec.SecurityOpt = append(r.spec.SecurityOpt, option)
			for prefix, field := range map[string]string{
				"no-new": "process.noNewPrivileges", "seccomp": "linux.seccomp", "apparmo": "process.apparmorProfile",
			} {
				if len(option) >= len(prefix) && option[:len(prefix)] == prefix {
					r.flag(field, "--security-opt "+v, false)
				}
			}
			return nil
		}},
		{name: "privileged", category: catSecurity, usage: "all rights that the host has, all devices, no filter", fields: []string{"process.capabilities", "linux.seccomp", "linux.devices"}, apply: on(func(r *request) *bool { return &r.spec.Privileged })},
	}
}

func isolationFlags() []specFlag {
	return []specFlag{
		{name: "userns", category: catIsolation, placeholder: "MODE", usage: "host, auto, or UID:GID:SIZE (the host's IDs that root and others become)", example: "auto", fields: []string{"linux.uidMappings", "linux.gidMappings"}, apply: set(parseUserNS, func(r *request) *string { return &r.spec.UserNS })},
		{name: "pid", category: catIsolation, placeholder: "MODE", usage: "host or container:NAME", example: "host", fields: []string{"linux.namespaces"}, apply: set(parseShared("private"), func(r *request) *string { return &r.spec.PIDMode })},
		{name: "ipc", category: catIsolation, placeholder: "MODE", usage: "private, host or container:NAME", example: "host", fields: []string{"linux.namespaces"}, apply: set(parseShared("private", "shareable"), func(r *request) *string { return &r.spec.IPCMode })},
		{name: "sysctl", category: catIsolation, placeholder: "NAME=VALUE", list: true, usage: "set a namespaced kernel parameter", example: "net.core.somaxconn=1024", fields: []string{"linux.sysctl"}, apply: func(r *request, v string, _ outside) error {
			name, value, err := parseKeyValue(v)
			if err != nil {
				return err
			}
			if r.spec.Sysctls == nil {
				r.spec.Sysctls = map[string]string{}
			}
			r.spec.Sysctls[name] = value
			return nil
		}},
	}
}

func sandboxFlags() []specFlag {
	return []specFlag{
		{name: "rm", category: catSandbox, usage: "remove the container when it has exited", apply: on(func(r *request) *bool { return &r.spec.AutoRemove })},
		{name: "explain", category: catSandbox, usage: "show every kernel operation as it is made, on stderr", apply: on(func(r *request) *bool { return &r.explain })},
		{name: "json", category: catSandbox, usage: "print what --explain shows as JSON, one operation a line", apply: on(func(r *request) *bool { return &r.json })},
		{name: "engine", category: catSandbox, placeholder: "ENGINE", usage: "what runs the container: raw", example: "raw", apply: set(func(s string) (string, error) {
			switch s {
			case "raw":
				return s, nil
			case "containerd", "docker":
				return "", fmt.Errorf("the engine %s is not in this version", s)
			}
			return "", errors.New("there is no such engine")
		}, func(r *request) *string { return &r.engine })},
		{name: "pull", category: catSandbox, placeholder: "WHEN", usage: "get the image: missing, always or never (missing)", example: "never", apply: set(parsePull, func(r *request) *string { return &r.pull })},
		{name: "cidfile", category: catSandbox, placeholder: "FILE", usage: "write the container's ID to a new file", example: "/tmp/web.cid", apply: set(text, func(r *request) *string { return &r.cidFile })},
		{name: "detach-keys", category: catSandbox, placeholder: "KEYS", usage: "the keys that leave the container running", example: "ctrl-p,ctrl-q", apply: set(func(s string) (string, error) {
			_, err := parseDetachKeys(s)
			return s, err
		}, func(r *request) *string { return &r.detachKeys })},
		{name: "sig-proxy", category: catSandbox, usage: "pass signals on to the process (default: true)", apply: on(func(r *request) *bool { return &r.sigProxy })},
	}
}
