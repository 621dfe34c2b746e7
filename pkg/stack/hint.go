package stack

// WithHint returns err with what the user can do about it.
func WithHint(err error, hint string) error { return &hinted{err, hint} }

type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }

// Hint is what the user can do.
func (e *hinted) Hint() string { return e.hint }
