// Package aws is the stage that has an AWS of one's own: LocalStack in Docker,
// with its state kept, and with what Terraform keeps its state in.
package aws

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

const (
	// Name of the stage.
	Name = "aws"
	// ServiceName is LocalStack's in Docker, and that of its port in
	// api.Settings.
	ServiceName = "localstack"
	// DefaultPort is the one that every tool for LocalStack expects.
	DefaultPort = 4566

	volume = "sandbox-localstack"
	// initDir is where LocalStack looks for add-ons.
	initDir = "/etc/localstack/init"
)

// Defaults of Config.
const (
	DefaultRegion = "us-east-1"
	DefaultBucket = "sandbox-terraform-state"
	DefaultTable  = "sandbox-terraform-locks"
)

// Engine runs services: a docker.Engine.
type Engine interface {
	Run(ctx context.Context, s docker.Service, p stack.Progress) error
	Remove(ctx context.Context, stage string, volumes bool) error
	Status(ctx context.Context, s docker.Service) (api.StatusItem, error)
}

// Config is what the stage is made of.
type Config struct {
	Dirs   state.Dirs
	Docker Engine
	// Builds are the stages without which no image is built from its recipe.
	Builds []string
	// Init is LocalStack's add-on, as it is to be in its container.
	Init fs.FS
	// Settings returns the choices of the last `up`, for Status.
	Settings func() (api.Settings, error)
	// Region, Bucket and Table: those of the state, "" for the defaults.
	Region, Bucket, Table string
	// HTTP is how LocalStack is reached, nil for the usual way.
	HTTP *http.Client
}

// Stage implements stack.Stage.
type Stage struct{ Config }

// New returns the stage.
func New(cfg Config) *Stage {
	for _, d := range []struct {
		value *string
		usual string
	}{{&cfg.Region, DefaultRegion}, {&cfg.Bucket, DefaultBucket}, {&cfg.Table, DefaultTable}} {
		if *d.value == "" {
			*d.value = d.usual
		}
	}
	return &Stage{cfg}
}

func (s *Stage) Name() string { return Name }

// Needs implements stack.Stage.
func (s *Stage) Needs() []string { return append([]string{docker.Name}, s.Builds...) }

// Choices implements stack.Chooser.
func (s *Stage) Choices() stack.Choices {
	return stack.Choices{Ports: map[string]uint16{ServiceName: DefaultPort}}
}

func (s *Stage) Up(opts api.UpOptions) []stack.Step {
	cloud := s.cloud(opts.Settings)
	return []stack.Step{
		{Name: "localstack", Do: func(ctx context.Context, p stack.Progress) error {
			folder, err := s.extract()
			if err != nil {
				return err
			}
			return s.Docker.Run(ctx, s.service(opts.Settings, folder), p)
		}},
		{Name: "kept state", Do: func(ctx context.Context, p stack.Progress) error { return kept(ctx, cloud, p) }},
		{Name: "state bucket", Do: func(ctx context.Context, p stack.Progress) error {
			note, err := cloud.EnsureBucket(ctx, s.Bucket)
			p.Note("%s: %s", s.Bucket, note)
			return err
		}},
		{Name: "lock table", Do: func(ctx context.Context, p stack.Progress) error {
			note, err := cloud.EnsureTable(ctx, s.Table)
			p.Note("%s: %s", s.Table, note)
			return err
		}},
	}
}

func (s *Stage) Down(opts api.DownOptions) []stack.Step {
	return []stack.Step{{Name: "localstack", Do: func(ctx context.Context, p stack.Progress) error {
		if err := s.Docker.Remove(ctx, Name, opts.Purge); err != nil {
			return err
		}
		if opts.Purge {
			return s.removeFiles()
		}
		p.Note("its state stays in the volume %s", volume)
		return nil
	}}}
}

// cloud is the AWS of these settings.
func (s *Stage) cloud(settings api.Settings) Cloud {
	return Cloud{Endpoint: Endpoint(settings), Region: s.Region, HTTP: s.HTTP}
}

// Endpoint is the URL of LocalStack.
func Endpoint(settings api.Settings) string {
	return fmt.Sprintf("http://127.0.0.1:%d", port(settings))
}

func port(settings api.Settings) uint16 {
	if p := settings.Ports[ServiceName]; p != 0 {
		return p
	}
	return DefaultPort
}

// service is LocalStack's container; folder has the add-on.
func (s *Stage) service(settings api.Settings, folder string) docker.Service {
	cloud := s.cloud(settings)
	return docker.Service{
		Stage: Name, Name: ServiceName, Image: "localstack",
		Env: []string{
			"GATEWAY_LISTEN=0.0.0.0:4566",
			// Tables in files; the rest is the add-on's work.
			"PERSISTENCE=1",
			// It calls nobody: what it would call is gone, or out of reach.
			"DISABLE_EVENTS=1",
			"SKIP_SSL_CERT_DOWNLOAD=1",
			"DNS_ADDRESS=0",
			// URLs that it hands out, such as queues', work on this host without
			// a name server.
			fmt.Sprintf("LOCALSTACK_HOST=localhost:%d", port(settings)),
			"SQS_ENDPOINT_STRATEGY=path",
		},
		Ports:   []docker.Port{{Host: port(settings), Container: DefaultPort}},
		Volumes: []docker.Volume{{Name: volume, Target: "/var/lib/localstack"}},
		Binds:   []docker.Bind{{Source: folder, Target: initDir, ReadOnly: true}},
		Ready: func(ctx context.Context) error {
			_, err := cloud.Health(ctx)
			return err
		},
	}
}

// kept reports what the add-on has found of former days.
func kept(ctx context.Context, cloud Cloud, p stack.Progress) error {
	k, err := cloud.Kept(ctx)
	if err != nil {
		return err
	}
	if k.Refuses != "" {
		return stack.WithHint(
			fmt.Errorf("LocalStack changes nothing: %s: %w", k.Refuses, errdefs.ErrFailedPrecondition),
			"docker logs sandbox-"+ServiceName+" says more; sandbox down --purge begins anew, without what was kept",
		)
	}
	var names []string
	size := 0
	for _, service := range k.Services {
		names = append(names, service.Service)
		size += service.Bytes
	}
	note := "nothing yet"
	if len(names) > 0 {
		note = fmt.Sprintf("%s, %.1f MB", strings.Join(names, ", "), float64(size)/1e6)
	}
	if len(k.Problems) > 0 {
		note += "; " + strings.Join(k.Problems, "; ")
	}
	p.Note("%s", note)
	return nil
}

// Status implements stack.Stage.
func (s *Stage) Status(ctx context.Context) ([]api.StatusItem, error) {
	settings, err := s.Settings()
	if err != nil {
		return nil, err
	}
	cloud := s.cloud(settings)
	service := s.service(settings, "")
	bucket := api.StatusItem{What: "state bucket", Where: "s3://" + s.Bucket, State: stack.StateDown}
	table := api.StatusItem{What: "lock table", Where: s.Table, State: stack.StateDown}
	item, err := s.Docker.Status(ctx, service)
	item.Where = cloud.Endpoint
	items := []api.StatusItem{item, bucket, table}
	if err != nil || item.State != stack.StateUp {
		return items, err
	}
	var errs []error
	if states, err := cloud.Health(ctx); err != nil {
		errs = append(errs, err)
	} else {
		items[0].Note = running(states)
		items[0].Access = "access key " + AccessKey + ", secret key " + SecretKey
	}
	if k, err := cloud.Kept(ctx); err != nil {
		errs = append(errs, err)
	} else if k.Refuses != "" || len(k.Problems) > 0 {
		items[0].State = stack.StateDegraded
		items[0].Note = strings.Join(append([]string{k.Refuses}, k.Problems...), "; ")
	}
	for i, look := range []func() (string, error){
		func() (string, error) { return cloud.Bucket(ctx, s.Bucket) },
		func() (string, error) { return cloud.Table(ctx, s.Table) },
	} {
		it := &items[i+1]
		switch missing, err := look(); {
		case errdefs.IsNotFound(err):
		case err != nil:
			errs = append(errs, err)
			it.State = stack.StateDegraded
		case missing != "":
			it.State, it.Note = stack.StateDegraded, missing
		default:
			it.State = stack.StateUp
		}
	}
	return items, errors.Join(errs...)
}

// running names the services that have been used since the start.
func running(states map[string]string) string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(states)) {
		if states[name] == "running" {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return fmt.Sprintf("%d services", len(states))
	}
	return strings.Join(names, ", ")
}
