// Package runtime is an OCI runtime (runtime-spec 1.3).
package runtime
