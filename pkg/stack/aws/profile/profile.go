// Package profile writes a profile into the two files that AWS's command line
// and libraries read, beside what others have written there.
//
// https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-files.html
package profile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
)

// DefaultName is the profile's, unless another is asked for.
const DefaultName = "sandbox"

// mark is the first line of a section that is ours. Many have a profile
// "sandbox" that leads to an account of AWS: that one must stay.
const mark = "# kept by `sandbox aws profile`"

// Files are the two files; they need not exist.
type Files struct{ Config, Credentials string }

// FilesOf returns the files of a user: those that environment variables name,
// or the usual ones below home.
func FilesOf(home string, getenv func(string) string) Files {
	f := Files{Config: getenv("AWS_CONFIG_FILE"), Credentials: getenv("AWS_SHARED_CREDENTIALS_FILE")}
	if f.Config == "" {
		f.Config = filepath.Join(home, ".aws", "config")
	}
	if f.Credentials == "" {
		f.Credentials = filepath.Join(home, ".aws", "credentials")
	}
	return f
}

// Profile is what a profile says.
type Profile struct {
	Name      string
	Endpoint  string // URL of all services
	Region    string
	AccessKey string
	SecretKey string
}

// Write has the profile in both files, and returns those that it has changed. A
// profile of that name that is another's is errdefs.ErrAlreadyExists; then
// neither file is changed.
func Write(f Files, p Profile) (changed []string, err error) {
	if err := checkName(p.Name); err != nil {
		return nil, err
	}
	return edit(f, p.Name, []string{
		"region = " + p.Region,
		"output = json",
		"endpoint_url = " + p.Endpoint,
	}, []string{
		"aws_access_key_id = " + p.AccessKey,
		"aws_secret_access_key = " + p.SecretKey,
	})
}

// Remove has no profile of that name in either file, unless it is another's,
// and returns the files that it has changed.
func Remove(f Files, name string) (changed []string, err error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	return edit(f, name, nil, nil)
}

func checkName(name string) error {
	if name == "" || name == "default" || strings.ContainsAny(name, "[]\"'#;\n\r\t ") {
		return fmt.Errorf("%q is no name for a profile: letters, digits, - and _: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// edit makes both sections what they are to be, nil for none.
func edit(f Files, name string, config, credentials []string) ([]string, error) {
	type file struct {
		path, header string
		lines        []string
		have, want   []byte
	}
	files := []*file{{path: f.Config, header: "profile " + name, lines: config}, {path: f.Credentials, header: name, lines: credentials}}
	for _, each := range files {
		have, err := os.ReadFile(each.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		each.have = have
		if each.want, err = replace(have, each.header, each.lines); err != nil {
			return nil, &foreignError{fmt.Errorf("profile %s in %s: %w", name, each.path, err), name}
		}
	}
	var changed []string
	for _, each := range files {
		if bytes.Equal(each.have, each.want) {
			continue
		}
		if err := write(each.path, each.want); err != nil {
			return changed, fmt.Errorf("write %s: %w", each.path, err)
		}
		changed = append(changed, each.path)
	}
	return changed, nil
}

// foreignError is about a section that is not ours.
type foreignError struct {
	error
	name string
}

func (e *foreignError) Unwrap() error { return e.error }

// Hint is what the user can do.
func (e *foreignError) Hint() string {
	return "use another name: sandbox aws profile --name " + e.name + "-local"
}

var errForeign = fmt.Errorf("sandbox has not written it, and leaves it alone: %w", errdefs.ErrAlreadyExists)

// replace returns text with a section of these lines under that header, in its
// old place or at the end; with none if lines is nil. All other bytes stay.
func replace(text []byte, header string, lines []string) ([]byte, error) {
	start, end := find(text, header)
	before, after := text, []byte(nil)
	if start >= 0 {
		before, after = text[:start], text[end:]
		_, body, _ := bytes.Cut(text[start:end], []byte("\n"))
		if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte(mark)) {
			if lines == nil {
				return text, nil
			}
			return nil, errForeign
		}
	}
	var out bytes.Buffer
	if lines == nil {
		if start < 0 {
			return text, nil
		}
		// The empty line before it came with it.
		out.Write(bytes.TrimSuffix(before, []byte("\n")))
		if rest := bytes.TrimRight(out.Bytes(), "\n"); len(rest) > 0 && len(rest) == out.Len() {
			out.WriteByte('\n')
		}
		out.Write(after)
		return out.Bytes(), nil
	}
	out.Write(before)
	if start < 0 && len(before) > 0 {
		if before[len(before)-1] != '\n' {
			out.WriteByte('\n')
		}
		out.WriteByte('\n')
	}
	fmt.Fprintf(&out, "[%s]\n%s\n%s\n", header, mark, strings.Join(lines, "\n"))
	if len(after) > 0 {
		out.WriteByte('\n')
	}
	out.Write(after)
	return out.Bytes(), nil
}

// find returns where the section of that header begins and ends: at the header
// of the next one, or at the end. start is -1 without it.
func find(text []byte, header string) (start, end int) {
	start = -1
	at := 0
	for line := range bytes.Lines(text) {
		trimmed := strings.TrimSpace(string(line))
		if strings.HasPrefix(trimmed, "[") {
			if start >= 0 {
				return start, at
			}
			inside, _, _ := strings.Cut(strings.TrimPrefix(trimmed, "["), "]")
			if strings.Join(strings.Fields(strings.ReplaceAll(inside, `"`, "")), " ") == header {
				start = at
			}
		}
		at += len(line)
	}
	return start, len(text)
}

// write replaces a file, which keeps its mode and owner; a new one is for its
// user alone, who is the owner of the folder that it is in. A link stays one.
func write(path string, data []byte) (err error) {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		if fi, lerr := os.Lstat(path); lerr == nil && fi.Mode()&fs.ModeSymlink != 0 {
			return fmt.Errorf("%s is a link to nothing: %w", path, errdefs.ErrFailedPrecondition)
		}
		if err := makeFolder(filepath.Dir(path)); err != nil {
			return err
		}
		real, err = path, nil
	}
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o600)
	owner, err := os.Stat(filepath.Dir(real))
	if err != nil {
		return err
	}
	if fi, err := os.Stat(real); err == nil {
		mode, owner = fi.Mode().Perm(), fi
	}
	tmp, err := os.CreateTemp(filepath.Dir(real), "."+filepath.Base(real)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
		}
	}()
	if _, err = tmp.Write(data); err != nil {
		return err
	}
	if err = tmp.Chmod(mode); err != nil {
		return err
	}
	if err = own(tmp.Name(), owner); err != nil {
		return err
	}
	if err = tmp.Sync(); err != nil {
		return err
	}
	if err = tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), real)
}

// makeFolder makes ~/.aws, which is its user's, also under sudo.
func makeFolder(dir string) error {
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	parent, err := os.Stat(filepath.Dir(dir))
	if err != nil {
		return err
	}
	return own(dir, parent)
}

// own gives a file that root has made to another's owner.
func own(path string, like fs.FileInfo) error {
	st, ok := like.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return os.Lchown(path, int(st.Uid), int(st.Gid))
}
