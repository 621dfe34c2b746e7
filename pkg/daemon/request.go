package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// decodeBody reads the request's JSON body into v. A field that v does not
// have is refused by name: a client newer than the daemon should learn that
// its wish is not understood, not see it ignored.
func decodeBody(w http.ResponseWriter, r *http.Request, v any) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if err == nil {
		if _, next := dec.Token(); next != io.EOF {
			err = errors.New("more than one JSON value")
		}
	}
	switch {
	case err == nil:
		// The deadline of the body must not end the handler's work; see serve.
		// After an error it stays: the server still discards what is to come.
		return http.NewResponseController(w).SetReadDeadline(time.Time{})
	case err == io.EOF:
		err = errors.New("it is empty, JSON is expected")
	case isTooLarge(err):
		return fmt.Errorf("request body is larger than %d bytes: %w", maxBody, err)
	}
	return fmt.Errorf("request body: %s: %w", strings.TrimPrefix(err.Error(), "json: "), errdefs.ErrInvalidArgument)
}

// Query parameters. An absent one has the default; a malformed one is an
// invalid argument.

func queryBool(r *http.Request, name string) (bool, error) {
	return query(r, name, false, strconv.ParseBool)
}

func queryTime(r *http.Request, name string) (time.Time, error) {
	return query(r, name, time.Time{}, func(s string) (time.Time, error) { return time.Parse(time.RFC3339Nano, s) })
}

// querySize is a number of rows or columns of a terminal.
func querySize(r *http.Request, name string) (uint16, error) {
	n, err := query(r, name, 0, func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 16) })
	if err == nil && n == 0 {
		err = fmt.Errorf("query parameter %s is missing or 0: %w", name, errdefs.ErrInvalidArgument)
	}
	return uint16(n), err
}

func query[T any](r *http.Request, name string, absent T, parse func(string) (T, error)) (T, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return absent, nil
	}
	v, err := parse(s)
	if err != nil {
		return absent, fmt.Errorf("query parameter %s=%q is malformed: %w", name, s, errdefs.ErrInvalidArgument)
	}
	return v, nil
}

// parseGrace takes a Go duration, or seconds as docker's stop --time does.
func parseGrace(s string) (*time.Duration, error) {
	if n, err := strconv.ParseInt(s, 10, 32); err == nil {
		d := time.Duration(n) * time.Second
		return &d, nil
	}
	d, err := time.ParseDuration(s)
	return &d, err
}
