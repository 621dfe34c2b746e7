package runtime

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// decodeSpec decodes config.json, key by key.
//
// json.Unmarshal into a whole specs.Spec takes most of a millisecond in a new
// process, a tenth of what a container takes: at first sight of a type it looks through
// all types that could be reached from it, down to other operating
// systems'. Here a type is looked at when a key of it is there.
func decodeSpec(raw []byte, spec *specs.Spec) error {
	return decodeObject(raw, func(key string, value json.RawMessage) error {
		switch key {
		case "ociVersion":
			return json.Unmarshal(value, &spec.Version)
		case "process":
			return decodeNew(value, &spec.Process, decodeProcess)
		case "root":
			return json.Unmarshal(value, &spec.Root)
		case "hostname":
			return json.Unmarshal(value, &spec.Hostname)
		case "domainname":
			return json.Unmarshal(value, &spec.Domainname)
		case "mounts":
			return json.Unmarshal(value, &spec.Mounts)
		case "hooks":
			return json.Unmarshal(value, &spec.Hooks)
		case "annotations":
			return json.Unmarshal(value, &spec.Annotations)
		case "linux":
			return decodeNew(value, &spec.Linux, decodeLinux)
		}
		return nil // other platforms', and what a later version may bring
	})
}

func decodeProcess(raw []byte, p *specs.Process) error {
	return decodeObject(raw, func(key string, value json.RawMessage) error {
		switch key {
		case "terminal":
			return json.Unmarshal(value, &p.Terminal)
		case "consoleSize":
			return json.Unmarshal(value, &p.ConsoleSize)
		case "user":
			return json.Unmarshal(value, &p.User)
		case "args":
			return json.Unmarshal(value, &p.Args)
		case "env":
			return json.Unmarshal(value, &p.Env)
		case "cwd":
			return json.Unmarshal(value, &p.Cwd)
		case "capabilities":
			return json.Unmarshal(value, &p.Capabilities)
		case "rlimits":
			return json.Unmarshal(value, &p.Rlimits)
		case "noNewPrivileges":
			return json.Unmarshal(value, &p.NoNewPrivileges)
		case "apparmorProfile":
			return json.Unmarshal(value, &p.ApparmorProfile)
		case "oomScoreAdj":
			return json.Unmarshal(value, &p.OOMScoreAdj)
		case "scheduler":
			return json.Unmarshal(value, &p.Scheduler)
		case "selinuxLabel":
			return json.Unmarshal(value, &p.SelinuxLabel)
		case "ioPriority":
			return json.Unmarshal(value, &p.IOPriority)
		case "execCPUAffinity":
			return json.Unmarshal(value, &p.ExecCPUAffinity)
		}
		return nil
	})
}

func decodeLinux(raw []byte, l *specs.Linux) error {
	return decodeObject(raw, func(key string, value json.RawMessage) error {
		switch key {
		case "uidMappings":
			return json.Unmarshal(value, &l.UIDMappings)
		case "gidMappings":
			return json.Unmarshal(value, &l.GIDMappings)
		case "sysctl":
			return json.Unmarshal(value, &l.Sysctl)
		case "resources":
			return decodeNew(value, &l.Resources, decodeResources)
		case "cgroupsPath":
			return json.Unmarshal(value, &l.CgroupsPath)
		case "namespaces":
			return json.Unmarshal(value, &l.Namespaces)
		case "devices":
			return json.Unmarshal(value, &l.Devices)
		case "netDevices":
			return json.Unmarshal(value, &l.NetDevices)
		case "seccomp":
			return json.Unmarshal(value, &l.Seccomp)
		case "rootfsPropagation":
			return json.Unmarshal(value, &l.RootfsPropagation)
		case "maskedPaths":
			return json.Unmarshal(value, &l.MaskedPaths)
		case "readonlyPaths":
			return json.Unmarshal(value, &l.ReadonlyPaths)
		case "mountLabel":
			return json.Unmarshal(value, &l.MountLabel)
		case "intelRdt":
			return json.Unmarshal(value, &l.IntelRdt)
		case "memoryPolicy":
			return json.Unmarshal(value, &l.MemoryPolicy)
		case "personality":
			return json.Unmarshal(value, &l.Personality)
		case "timeOffsets":
			return json.Unmarshal(value, &l.TimeOffsets)
		}
		return nil
	})
}

func decodeResources(raw []byte, r *specs.LinuxResources) error {
	return decodeObject(raw, func(key string, value json.RawMessage) error {
		switch key {
		case "devices":
			return json.Unmarshal(value, &r.Devices)
		case "memory":
			return json.Unmarshal(value, &r.Memory)
		case "cpu":
			return json.Unmarshal(value, &r.CPU)
		case "pids":
			return json.Unmarshal(value, &r.Pids)
		case "blockIO":
			return json.Unmarshal(value, &r.BlockIO)
		case "hugepageLimits":
			return json.Unmarshal(value, &r.HugepageLimits)
		case "network":
			return json.Unmarshal(value, &r.Network)
		case "rdma":
			return json.Unmarshal(value, &r.Rdma)
		case "unified":
			return json.Unmarshal(value, &r.Unified)
		}
		return nil
	})
}

// decodeNew decodes into a new value unless the JSON is null.
func decodeNew[T any](raw json.RawMessage, dst **T, decode func([]byte, *T) error) error {
	if string(raw) == "null" {
		return nil
	}
	*dst = new(T)
	return decode(raw, *dst)
}

// decodeObject calls field for each key of a JSON object. Errors name the key.
func decodeObject(raw []byte, field func(key string, value json.RawMessage) error) error {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil {
		return err
	}
	keys := make([]string, 0, len(object))
	for key := range object {
		keys = append(keys, key)
	}
	slices.Sort(keys) // of several errors always the same one
	for _, key := range keys {
		if err := field(key, object[key]); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return nil
}
