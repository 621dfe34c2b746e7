package monitoring

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// scripted is a kubectl that answers by the beginning of its arguments.
func scripted(answers map[string]string, said *[]string) Kubectl {
	return func(_ context.Context, stdin io.Reader, args ...string) ([]byte, error) {
		line := strings.Join(args, " ")
		if stdin != nil {
			b, _ := io.ReadAll(stdin)
			line += fmt.Sprintf(" <%d bytes", len(b))
		}
		if said != nil {
			*said = append(*said, line)
		}
		for begin, answer := range answers {
			if strings.HasPrefix(line, begin) {
				if text, failed := strings.CutPrefix(answer, "error: "); failed {
					return nil, errors.New(text)
				}
				return []byte(answer), nil
			}
		}
		return nil, errors.New("not asked for: " + line)
	}
}

func TestKubectl(t *testing.T) {
	ctx := t.Context()
	config := `{"clusters":[{"name":"sandbox","cluster":{"certificate-authority-data":"Q0E=","server":"https://sandbox-control-plane:6443"}}]}`
	reach, err := scripted(map[string]string{"config view": config, "get --raw=/readyz": "ok"}, nil).Reach(ctx)
	if err != nil || reach.APIServer != "sandbox-control-plane:6443" || string(reach.CA) != "CA" {
		t.Errorf("%+v, %v", reach, err)
	}
	for _, bad := range []string{"{", `{"clusters":[]}`, strings.Replace(config, ":6443", "", 1), strings.Replace(config, "https", "http", 1)} {
		if _, err := scripted(map[string]string{"config view": bad, "get --raw=/readyz": "ok"}, nil).Reach(ctx); err == nil || errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	starting := map[string]string{"config view": config, "get --raw=/readyz": "error: connection refused"}
	if _, err := scripted(starting, nil).Reach(ctx); !errdefs.IsUnavailable(err) {
		t.Errorf("a cluster that is starting: %v", err)
	}
	none := Kubectl(func(context.Context, io.Reader, ...string) ([]byte, error) {
		return nil, fmt.Errorf("there is no cluster: %w", errdefs.ErrFailedPrecondition)
	})
	if _, err := none.Reach(ctx); !errdefs.IsNotFound(err) {
		t.Error(err)
	}

	manifests := "kind: Namespace\nmetadata: {name: a}\n---\nkind: Deployment\nmetadata: {name: web, namespace: a}\n"
	var said []string
	ok := map[string]string{"apply": "", "rollout status": ""}
	if err := scripted(ok, &said).Apply(ctx, []byte(manifests)); err != nil || len(said) != 2 ||
		!strings.HasSuffix(said[0], fmt.Sprintf("-f - <%d bytes", len(manifests))) || !strings.HasSuffix(said[1], "-n a deployment/web") {
		t.Errorf("%q, %v", said, err)
	}
	late := map[string]string{"apply": "", "rollout status": "error: timed out", "get events": "older\nErrImagePull: no such image\n"}
	if err := scripted(late, nil).Apply(ctx, []byte(manifests)); err == nil || err.Error() != "timed out; its last warning: ErrImagePull: no such image" {
		t.Error(err)
	}

	secret := `{"kind":"Secret","data":{"token":"c2VjcmV0"}}`
	if data, err := scripted(map[string]string{"get secret -n ns x ": secret}, nil).Secret(ctx, "ns", "x"); err != nil || string(data["token"]) != "secret" {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := scripted(map[string]string{"get secret": ""}, nil).Secret(ctx, "ns", "x"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}
