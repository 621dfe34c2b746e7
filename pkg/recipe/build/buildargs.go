package build

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

// Arguments that mean something to BuildKit though no ARG declares them. Of the
// others that it has, none changes what is built here.
const (
	argEpoch    = "SOURCE_DATE_EPOCH"
	argHostname = "BUILDKIT_SANDBOX_HOSTNAME"
	argSyntax   = "BUILDKIT_SYNTAX"
	argCheck    = "BUILDKIT_DOCKERFILE_CHECK"
)

// settings takes what arguments say of the build itself.
func (o *Options) settings(global environ) error {
	if ref, ok := o.Args[argSyntax]; ok {
		named, err := reference.ParseNormalizedNamed(ref)
		if err != nil || !slices.Contains(frontends, named.Name()) {
			return fmt.Errorf("argument %s=%s: the frontend is a program of its own, which is not supported: leave the argument out: %w", argSyntax, ref, errdefs.ErrInvalidArgument)
		}
	}
	if _, ok := o.Args[argCheck]; ok {
		return fmt.Errorf("argument %s is not supported: write # check= in the Dockerfile: %w", argCheck, errdefs.ErrInvalidArgument)
	}
	value, ok := o.Args[argEpoch]
	if !ok {
		value, _ = global.get(argEpoch)
	}
	if value == "" || !o.Epoch.IsZero() {
		return nil
	}
	seconds, err := strconv.ParseInt(value, 10, 64)
	if err != nil || seconds < 0 {
		return fmt.Errorf("%s=%s is no number of seconds since 1970, and nothing else is supported: %w", argEpoch, value, errdefs.ErrInvalidArgument)
	}
	o.Epoch = time.Unix(seconds, 0)
	return nil
}
