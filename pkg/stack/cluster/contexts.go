package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/cluster/kubeconfig"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// record is what the stage keeps: whose kubeconfig it has written to.
type record struct {
	Users []kubeconfig.User `json:"users"`
}

func (s *Stage) recorded() (r record, err error) {
	err = state.ReadJSON(s.Dirs.Stage(Name), &r)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return r, err
}

// kubeconfig gives the user, and all who have it already, the context.
func (u *up) kubeconfig(ctx context.Context, p stack.Progress) error {
	r, err := u.recorded()
	if err != nil {
		return err
	}
	if u.User != nil {
		if user, ok := u.User(u.opts); ok && !slices.Contains(r.Users, user) {
			r.Users = append(r.Users, user)
			// Before anything is written: down finds what it has to restore.
			if err := state.WriteJSON(u.Dirs.Stage(Name), r); err != nil {
				return err
			}
		}
	}
	if len(r.Users) == 0 {
		p.Note("nobody's: it is not known who asked")
		return nil
	}
	n, _ := u.have.controlPlane()
	e, err := u.entry(ctx, n)
	if err != nil {
		return err
	}
	changes := 0
	for _, user := range r.Users {
		changed, err := kubeconfig.Add(ctx, user, e)
		if err != nil {
			return err
		}
		if changed {
			changes++
		}
	}
	where := r.Users[0].Path
	if len(r.Users) > 1 {
		where = fmt.Sprintf("%d files", len(r.Users))
	}
	if changes == 0 {
		p.Note("context %s in %s, already there", clusterName, where)
	} else {
		p.Note("context %s in %s", clusterName, where)
	}
	return nil
}

// removeContexts takes the context from everybody who has it, and restores what
// was current before.
func (s *Stage) removeContexts(ctx context.Context, p stack.Progress) error {
	r, err := s.recorded()
	if err != nil {
		return err
	}
	removed := 0
	var errs []error
	for _, user := range r.Users {
		changed, err := kubeconfig.Remove(ctx, user, clusterName)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the home is gone
		}
		if err != nil {
			errs = append(errs, err)
		}
		if changed {
			removed++
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	p.Note("%d restored", removed)
	if err := os.Remove(s.Dirs.Stage(Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
