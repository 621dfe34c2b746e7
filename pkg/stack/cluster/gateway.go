package cluster

import (
	"context"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	content "github.com/sandboxlabs/sandbox/sandbox/stack/cluster"
)

// establishTimeout bounds the API server's learning of new kinds; a second.
const establishTimeout = "60s"

// bundleVersion is where a definition of the Gateway API says of which release it
// is, as kubectl and as the definition write it.
const bundleVersion = `gateway\.networking\.k8s\.io/bundle-version`

var (
	definitionName    = regexp.MustCompile(`(?m)^  name: (\S+\.gateway\.networking\.k8s\.io)$`)
	definitionVersion = regexp.MustCompile(`(?m)^    ` + bundleVersion + `: (\S+)$`)
)

// applyGateway applies the definitions of the Gateway API, and when the API server
// knows them, what they define. The definitions are large: those that are there
// already, of the same release, stay. It returns the names of the objects.
func (u *up) applyGateway(ctx context.Context, n node) (names []string, err error) {
	definitions, err := fs.ReadFile(content.Files, "gateway/definitions.yaml")
	if err != nil {
		return nil, err
	}
	have, err := u.kubectl(ctx, n, nil, "get", "customresourcedefinitions",
		`--output=jsonpath={range .items[*]}{.metadata.name}={.metadata.annotations.`+bundleVersion+`}{"\n"}{end}`)
	if err != nil {
		return nil, err
	}
	if !defined(string(have), definitions) {
		if names, err = u.apply(ctx, n, definitions); err != nil {
			return nil, fmt.Errorf("gateway API: %w", err)
		}
		wait := append([]string{"wait", "--for=condition=Established", "--timeout=" + establishTimeout}, names...)
		if _, err := u.kubectl(ctx, n, nil, wait...); err != nil {
			return nil, fmt.Errorf("gateway API: %w", err)
		}
	}
	gateway, err := fs.ReadFile(content.Files, "gateway/gateway.yaml")
	if err != nil {
		return nil, err
	}
	more, err := u.apply(ctx, n, gateway)
	return append(names, more...), err
}

// defined reports whether all definitions are among those that there are, lines of
// NAME=VERSION.
func defined(have string, definitions []byte) bool {
	lines := map[string]bool{}
	for line := range strings.Lines(have) {
		lines[strings.TrimSpace(line)] = true
	}
	versions := definitionVersion.FindAllSubmatch(definitions, -1)
	for i, name := range definitionName.FindAllSubmatch(definitions, -1) {
		if i >= len(versions) || !lines[string(name[1])+"="+string(versions[i][1])] {
			return false
		}
	}
	return true
}
