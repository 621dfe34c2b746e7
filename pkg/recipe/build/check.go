package build

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/sandboxlabs/sandbox/pkg/pattern"
	"github.com/sandboxlabs/sandbox/pkg/recipe"
	"github.com/sandboxlabs/sandbox/pkg/recipe/build/filecopy"
)

// checker collects what is wrong with a Dockerfile, and what of it is not
// supported, so that neither is found in the middle of a build.
type checker struct {
	file     *file
	problems []recipe.Problem
	lost     bool // a FROM was not understood: what comes after it is in a wrong stage
}

func (c *checker) add(line int, hint, format string, args ...any) {
	c.problems = append(c.problems, recipe.Problem{File: "Dockerfile", Line: line, Message: fmt.Sprintf(format, args...), Hint: hint})
}

func (c *checker) warn(line int, message string) {
	c.problems = append(c.problems, recipe.Problem{File: "Dockerfile", Line: line, Message: message, Warning: true})
}

func (c *checker) failed() bool {
	return slices.ContainsFunc(c.problems, func(p recipe.Problem) bool { return !p.Warning })
}

// problemsError is one error of all problems, without warnings; nil for none.
func problemsError(problems []recipe.Problem) error {
	var errs []error
	for _, p := range problems {
		if !p.Warning {
			errs = append(errs, errors.New(p.String()))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", errors.Join(errs...), errdefs.ErrInvalidArgument)
}

// frontends are the images of "# syntax=" that stand for what BuildKit's parser
// reads anyway.
var frontends = []string{"docker.io/docker/dockerfile", "docker.io/docker/dockerfile-upstream"}

func (c *checker) syntax(dockerfile []byte) {
	ref, _, location, ok := parser.DetectSyntax(dockerfile)
	if !ok {
		return
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil || !slices.Contains(frontends, named.Name()) {
		c.add(max(lineIn(location), 1), "remove the line, or name docker/dockerfile:1", "the Dockerfile is written for the frontend %s, which is a program of its own", ref)
	}
}

// instruction is a problem of one that the parser does not take.
func (c *checker) instruction(node *parser.Node, err error) {
	hint := ""
	if _, ok := errors.AsType[*instructions.UnknownInstructionError](err); ok {
		hint = "instructions are listed in Docker's Dockerfile reference"
	}
	c.add(node.StartLine, hint, "%v", err)
	c.lost = c.lost || strings.EqualFold(node.Value, "from")
}

// stages looks at every stage that the parser has taken.
func (c *checker) stages() {
	global := c.file.globals(nil, "")
	x := newExpander(c.file.escape)
	for i, st := range c.file.stages {
		line := lineIn(st.Location)
		if _, err := x.word(st.BaseName, global); err != nil {
			c.add(line, "", "FROM %s: %v", st.BaseName, err)
		}
		if st.Platform != "" {
			p, err := x.matches(st.Platform, global)
			if err == nil && (p.Result != "" || !c.declares(p)) { // else an ARG may be given
				err = checkPlatform(p.Result)
			}
			if err != nil {
				c.add(line, "an image is built for the machine that builds it", "FROM --platform=%s: %v", st.Platform, err)
			}
		}
		for _, cmd := range st.Commands {
			c.command(i, cmd, lineIn(cmd.Location()))
		}
	}
}

// declares reports whether an ARG before the first FROM is used in a word.
func (c *checker) declares(word shell.ProcessWordResult) bool {
	return slices.ContainsFunc(c.file.args, func(cmd *instructions.ArgCommand) bool {
		return slices.ContainsFunc(cmd.Args, func(arg instructions.KeyValuePairOptional) bool {
			_, found := word.Matched[arg.Key]
			_, missing := word.Unmatched[arg.Key]
			return found || missing
		})
	})
}

// command refuses what is not supported.
func (c *checker) command(stage int, cmd instructions.Command, line int) {
	switch cmd := cmd.(type) {
	case *instructions.AddCommand:
		c.addCommand(cmd, line)
	case *instructions.CopyCommand:
		c.copyCommand(stage, cmd, line)
	case *instructions.RunCommand:
		c.runCommand(stage, cmd, line)
	case *instructions.OnbuildCommand:
		c.onbuild(cmd.Expression, line)
	case *instructions.ExposeCommand:
		for _, p := range cmd.Ports {
			if _, err := parsePort(p); err != nil && !strings.Contains(p, "$") {
				c.add(line, "as in 8080, 53/udp or 7000-7010", "EXPOSE %s: %v", p, err)
			}
		}
	case *instructions.StopSignalCommand:
		if !validSignal(cmd.Signal) && !strings.Contains(cmd.Signal, "$") {
			c.add(line, "as in SIGTERM or 15", "STOPSIGNAL %s is no signal", cmd.Signal)
		}
	}
}

func (c *checker) addCommand(cmd *instructions.AddCommand, line int) {
	const hint = "put the file into the build context, or fetch it in a RUN with a pinned checksum"
	for _, src := range cmd.SourcePaths {
		if isRemote(src) {
			c.add(line, hint, "ADD of %s: remote sources are not supported", src)
		}
	}
	if cmd.Checksum != "" {
		c.add(line, hint, "ADD --checksum is for remote sources, which are not supported")
	}
	if cmd.KeepGitDir != nil {
		c.add(line, hint, "ADD --keep-git-dir is for git sources, which are not supported")
	}
	c.files(cmd.Chown, cmd.Chmod, cmd.Link, line)
}

func (c *checker) copyCommand(stage int, cmd *instructions.CopyCommand, line int) {
	for _, src := range cmd.SourcePaths {
		if cmd.From == "" && isRemote(src) {
			c.add(line, "", "COPY of %s: COPY takes files of the build context only", src)
		}
	}
	if strings.Contains(cmd.From, "$") {
		c.add(line, "name a stage: FROM with the variable, AS a name, and that name here", "COPY --from=%s: variables are not expanded here", cmd.From)
	}
	c.from("COPY --from", stage, cmd.From, line)
	c.files(cmd.Chown, cmd.Chmod, cmd.Link, line)
}

func (c *checker) files(chown, chmod string, link bool, line int) {
	if link && !strings.Contains(chown, "$") && strings.Trim(chown, "0123456789:") != "" {
		c.add(line, "use numbers, or leave out --link", "--chown=%s: there are no names in the layer of a --link", chown)
	}
	if filecopy.CheckMode(chmod) != nil && !strings.Contains(chmod, "$") {
		c.add(line, "as in 755 or u=rwX,go=rX", "--chmod=%s is neither an octal number up to 7777 nor a symbolic mode", chmod)
	}
}

// from refuses the number of a stage that is not there yet.
func (c *checker) from(what string, stage int, name string, line int) {
	n, err := strconv.Atoi(name)
	if err != nil {
		return
	}
	if n < 0 || n >= stage {
		c.add(line, "stages are numbered from 0; only earlier ones can be meant", "%s=%s: there is no such stage before this one", what, name)
	}
}

func (c *checker) runCommand(stage int, cmd *instructions.RunCommand, line int) {
	for _, flag := range cmd.FlagsUsed {
		switch flag {
		case "security":
			if instructions.GetSecurity(cmd) != instructions.SecuritySandbox {
				c.add(line, "a build has a container's default rights", "RUN --security=insecure is not supported")
			}
		case "device":
			c.add(line, "a build has no devices", "RUN --device is not supported")
		case "mount", "network":
		default:
			c.add(line, "", "RUN --%s is not supported", flag)
		}
	}
	// Values with variables are looked at in the build, when they have values.
	variables := false
	err := cmd.Expand(func(word string) (string, error) {
		variables = variables || strings.Contains(word, "$")
		return word, nil
	})
	if variables {
		return
	}
	if err != nil {
		c.add(line, "mounts are described in Docker's Dockerfile reference, RUN --mount", "RUN --mount: %v", err)
		return
	}
	for _, m := range instructions.GetMounts(cmd) {
		if err := checkMount(m); err != nil {
			hint := ""
			if m.Type == instructions.MountTypeSSH {
				hint = "give the key as a secret: --mount=type=secret,id=…"
			}
			c.add(line, hint, "RUN --mount: %v", err)
		}
		c.from("RUN --mount: from", stage, m.From, line)
	}
}

// checkMount refuses mounts that cannot be made.
func checkMount(m *instructions.Mount) error {
	switch {
	case m.Type == instructions.MountTypeSSH:
		return errors.New("type=ssh is not supported")
	case m.Target == "" && m.Type != instructions.MountTypeSecret:
		return fmt.Errorf("type=%s has no target", m.Type)
	case m.Target != "" && path.Clean("/"+m.Target) == "/":
		return fmt.Errorf("target %s is the root", m.Target)
	case m.Type == instructions.MountTypeTmpfs && m.From != "":
		return fmt.Errorf("type=tmpfs has no from")
	case m.Type == instructions.MountTypeCache && m.From == "" && path.Join("/", m.Source) != "/":
		// Whoever shares the cache could put a symlink to the host's files there.
		return errors.New("a source in the cache itself is not supported: mount all of it")
	}
	return nil
}

// onbuild looks at a trigger: the image that has it is of no use otherwise.
func (c *checker) onbuild(expression string, line int) {
	cmd, err := parseTrigger(expression)
	if err != nil {
		c.add(line, "", "ONBUILD %s: %v", expression, err)
		return
	}
	// Stages that a trigger takes files from are the later build's.
	switch cmd := cmd.(type) {
	case *instructions.CopyCommand:
		c.copyCommand(len(c.file.stages), cmd, line)
	default:
		c.command(len(c.file.stages), cmd, line)
	}
}

// parseTrigger parses the instruction of an ONBUILD.
func parseTrigger(expression string) (instructions.Command, error) {
	result, err := parser.Parse(strings.NewReader(expression))
	if err != nil {
		return nil, err
	}
	if len(result.AST.Children) != 1 {
		return nil, errors.New("it is not one instruction")
	}
	cmd, err := instructions.ParseCommand(result.AST.Children[0])
	if err != nil {
		return nil, err
	}
	if _, ok := cmd.(*instructions.OnbuildCommand); ok {
		return nil, errors.New("a trigger has no triggers")
	}
	return cmd, nil
}

// scpForm is git's short form of a URL, as scp(1) has it: USER@HOST:PATH.
var scpForm = pattern.New(`^[A-Za-z0-9_-]+@[A-Za-z0-9.-]+:`)

// isRemote tells URLs and git's short form apart from paths.
func isRemote(src string) bool {
	if scpForm.MatchString(src) {
		return true
	}
	u, err := url.Parse(src)
	return err == nil && u.Scheme != "" && u.Host != ""
}

func hostPlatform() string { return runtime.GOOS + "/" + runtime.GOARCH }

// checkPlatform refuses all but this machine's platform, whatever its variant.
func checkPlatform(platform string) error {
	if platform == "" {
		return errors.New("it is empty")
	}
	p, err := platforms.Parse(platform)
	if err != nil {
		return err
	}
	if p = platforms.Normalize(p); p.OS != runtime.GOOS || p.Architecture != runtime.GOARCH {
		return fmt.Errorf("this machine is %s", hostPlatform())
	}
	return nil
}

func upper(name string) string { return strings.ToUpper(name) }
