// Package undo collects the steps that take back what an operation has done
// so far, and runs them last-in first-out when it fails.
package undo

import (
	"context"
	"errors"
	"time"
)

// Timeout bounds a whole rollback.
const Timeout = 10 * time.Second

// Stack is a LIFO of undo steps. The zero value is ready. Steps must be
// idempotent: the daemon's sweep may have run before them.
type Stack struct {
	steps []func(context.Context) error
}

// Push adds a step; call it right after the side effect succeeded.
func (s *Stack) Push(step func(context.Context) error) {
	s.steps = append(s.steps, step)
}

// Discard forgets all steps: the operation has succeeded.
func (s *Stack) Discard() { s.steps = nil }

// Run undoes everything, newest first, on a context that outlives the
// cancelled operation, and joins the steps' errors to cause.
func (s *Stack) Run(cause error) error {
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	errs := []error{cause}
	for i := len(s.steps) - 1; i >= 0; i-- {
		errs = append(errs, s.steps[i](ctx))
	}
	s.steps = nil
	return errors.Join(errs...)
}
