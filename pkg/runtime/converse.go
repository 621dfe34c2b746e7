package runtime

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// identify completes the record with the first process, so that other commands find it.
func (cr *creation) identify() error {
	start, _, err := processStat(cr.PID)
	if err != nil {
		return err
	}
	cr.StartTime = start
	if err := cr.oomScoreAdj(); err != nil {
		return err
	}
	if err := cr.write(); err != nil {
		return err
	}
	if err := sendPIDFD(cr.options.PIDFDSocket, cr.process); err != nil {
		return err
	}
	if f := cr.options.PIDFile; f != "" {
		return writePIDFile(f, cr.PID)
	}
	return nil
}

// oomScoreAdj is written from outside: inside a user namespace there is no right to.
func (cr *creation) oomScoreAdj() error {
	if cr.spec.Process == nil || cr.spec.Process.OOMScoreAdj == nil {
		return nil
	}
	err := setOOMScoreAdj(cr.PID, *cr.spec.Process.OOMScoreAdj, cr.Trace)
	if errors.Is(err, unix.EACCES) {
		cr.warn(err.Error() + ": this host has no CAP_SYS_RESOURCE, so the score can be raised only")
		return nil
	}
	return err
}

// converse answers the first process until it waits for start.
func (cr *creation) converse(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = unix.Kill(cr.PID, unix.SIGKILL) })
	defer stop()
	for {
		c, fd, err := receive(cr.sync)
		cr.report(cr.b.Len())
		switch {
		case err != nil:
			return fmt.Errorf("first process: %w", err)
		case c == syncCreated:
			return nil
		case c == syncFD:
			if err := cr.forwardListener(fd); err != nil {
				return err
			}
		case c == syncMounts:
			if err := cr.atMounts(ctx); err != nil {
				return err
			}
			if _, err := cr.sync.Write([]byte{syncGo}); err != nil {
				return fmt.Errorf("first process: %w", err)
			}
		default: // the first process has ended
			return cr.failure(ctx)
		}
	}
}

// failure tells why the first process ended before it was ready.
func (cr *creation) failure(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	i := cr.results.Failed()
	if i < 0 {
		return errors.New("the first process was killed while it was being set up (out of memory in its cgroup?)")
	}
	if n := len(cr.search); n > 0 && i == cr.search[n-1] {
		return cr.notFound()
	}
	return cr.results.Error(i, cr.b.Op(i).Event)
}

// notFound is the error of a program that is not there, or not executable.
func (cr *creation) notFound() error {
	name := cr.spec.Process.Args[0]
	for _, i := range cr.search {
		if errno := cr.results.Errno(i); errno != unix.ENOENT && errno != unix.ENOTDIR {
			return fmt.Errorf("exec %q: %w", name, errno)
		}
	}
	if len(cr.search) > 1 {
		return fmt.Errorf("exec %q: executable file not found in $PATH: %w", name, unix.ENOENT)
	}
	return fmt.Errorf("exec %q: %w", name, unix.ENOENT)
}

// report explains and warns of what the script has done since the last time. Ops that
// were jumped over are done with, too.
func (cr *creation) report(until int) {
	for until > cr.told && !cr.results.Ran(until-1) {
		until--
	}
	cr.b.Report(cr.results, cr.told, until, cr.PID, cr.Trace)
	for ; cr.told < until; cr.told++ {
		if op := cr.b.Op(cr.told); op.Warn != "" && cr.results.Errno(cr.told) != 0 {
			cr.warn(op.Warn)
		}
	}
}
