package aws

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Credentials of the sandbox's AWS, which believes everybody.
const (
	AccessKey = "test"
	SecretKey = "test"
)

// callTimeout bounds one piece of work: LocalStack loads a service when it is
// first called, and on a busy machine DynamoDB takes a while.
const callTimeout = 60 * time.Second

// Cloud is an AWS at an endpoint: LocalStack, or what stands in for it. Its
// errors say what to do when nobody answers (errdefs.ErrUnavailable).
type Cloud struct {
	Endpoint string // URL of all services
	Region   string
	// HTTP is the client, nil for the usual one.
	HTTP *http.Client
}

// Health returns the state of each service: available, running, …, as
// LocalStack says.
func (c Cloud) Health(ctx context.Context) (map[string]string, error) {
	var health struct {
		Services map[string]string `json:"services"`
	}
	err := c.get(ctx, "/_localstack/health", &health)
	return health.Services, err
}

// Kept is what the add-on says about the state that it keeps.
type Kept struct {
	Refuses  string        `json:"refuses"`  // why nothing is changed, "" if it is
	Problems []string      `json:"problems"` // files that were damaged, and where they are now
	Services []KeptService `json:"services"` // of which anything is kept
}

// KeptService is a service whose state is kept.
type KeptService struct {
	Service string  `json:"service"`
	Cells   int     `json:"cells"`
	Bytes   int     `json:"bytes"`
	Changes int     `json:"changes"` // since the start, like what follows
	Commits int     `json:"commits"` // changes that came together are one
	Seconds float64 `json:"seconds"` // that all changes have waited
	Slowest float64 `json:"slowest"` // seconds
	Median  float64 `json:"median"`  // seconds, of the last 50 changes
}

// Kept asks the add-on. Where there is none it is errdefs.ErrNotFound.
func (c Cloud) Kept(ctx context.Context) (Kept, error) {
	var k Kept
	err := c.get(ctx, "/_localstack/sandbox/keep", &k)
	if status(err) == http.StatusNotFound {
		err = fmt.Errorf("the add-on that keeps LocalStack's state is not there: %w", errdefs.ErrNotFound)
	}
	return k, err
}

// get reads one of LocalStack's own resources.
func (c Cloud) get(ctx context.Context, path string, v any) error {
	target := strings.TrimSuffix(c.Endpoint, "/") + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return fmt.Errorf("endpoint %s: %w: %w", c.Endpoint, err, errdefs.ErrInvalidArgument)
	}
	answer, err := c.do(req)
	if err != nil {
		return fmt.Errorf("GET %s: %w", target, err)
	}
	if err := json.Unmarshal(answer, v); err != nil {
		return fmt.Errorf("GET %s: %w", target, err)
	}
	return nil
}
