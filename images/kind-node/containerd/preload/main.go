// Command preload puts images into containerd's store without a containerd:
// it makes them of root file systems and a list, so that a node that starts
// has them, with no registry in reach.
//
//	preload -images images.json -trees DIR -root /var/lib/containerd [-required FILE]
//
// What it writes depends on its input and SOURCE_DATE_EPOCH alone, to the
// byte. An import by a running containerd does not: its database has the
// times of the import, and pages in the order of the import.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

func main() {
	// It warns of file systems without fs-verity, which this does not need.
	_ = log.SetLevel("error")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "preload:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("preload", flag.ContinueOnError)
	var (
		list     = flags.String("images", "", "`file` that lists the images")
		trees    = flags.String("trees", "", "`folder` of the root file systems that the list names")
		root     = flags.String("root", "/var/lib/containerd", "containerd's root `folder`")
		required = flags.String("required", "", "`file` of image names, one a line, that must be there in the end")
	)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *list == "" || *trees == "" || flags.NArg() > 0 {
		return errors.New("usage: preload -images FILE -trees FOLDER [-root FOLDER] [-required FILE]")
	}
	created, err := sourceDate()
	if err != nil {
		return err
	}
	images, err := readList(*list)
	if err != nil {
		return err
	}
	if *required != "" {
		if err := checkRequired(*required, images); err != nil {
			return err
		}
	}
	stored, err := fill(ctx, *root, *trees, images, created)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, s := range stored {
		fmt.Fprintf(w, "%s\t%s\t%.1f MB\n", s.name, s.target.Digest, float64(s.size)/1e6)
	}
	return w.Flush()
}

// sourceDate is the time that everything claims to be from. There is no
// default: one would make the result differ from run to run without a word.
func sourceDate() (time.Time, error) {
	v := os.Getenv("SOURCE_DATE_EPOCH")
	sec, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH is %q: it must be a time in seconds since 1970", v)
	}
	return time.Unix(sec, 0).UTC(), nil
}
