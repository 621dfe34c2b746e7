package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/sandboxlabs/sandbox/images/demo-app/app/internal/knobs"
)

type config struct {
	port            int
	environment     string
	version         string
	databaseURL     string
	drainDelay      time.Duration
	shutdownTimeout time.Duration
	logLevel        slog.Level
	healthcheck     bool
	knobs           knobs.Settings
}

// flags declares every setting, once: as a flag, and so as an environment
// variable too.
func flags(c *config) *flag.FlagSet {
	*c = config{knobs: knobs.Defaults()}
	f := flag.NewFlagSet("demo-app", flag.ContinueOnError)
	f.SetOutput(io.Discard) // main says what is wrong
	f.IntVar(&c.port, "port", 8080, "TCP `port` to listen on")
	f.StringVar(&c.environment, "environment", "dev", "`name` of the environment: dev, staging, prod")
	f.StringVar(&c.version, "app-version", version, "`version` that the app says it is")
	f.StringVar(&c.databaseURL, "database-url", "", "keep notes in PostgreSQL: postgres://user:password@host/database")
	f.DurationVar(&c.drainDelay, "drain-delay", time.Second, "how long to take requests after SIGTERM, being unready")
	f.DurationVar(&c.shutdownTimeout, "shutdown-timeout", 20*time.Second, "how long requests may take to finish after that")
	f.TextVar(&c.logLevel, "log-level", slog.LevelInfo, "`level`: DEBUG, INFO, WARN, ERROR")
	f.BoolVar(&c.healthcheck, "healthcheck", false, "ask a running app for its health, and exit with 0 or 1")

	k := &c.knobs
	f.Float64Var(&k.ErrorRate, "error-rate", k.ErrorRate, "knob: `share` of requests that fail, 0 to 1")
	f.TextVar(&k.Latency, "latency", k.Latency, "knob: `time` added to each request")
	f.TextVar(&k.Jitter, "jitter", k.Jitter, "knob: most `time` added at random")
	f.Float64Var(&k.CPU, "cpu", k.CPU, "knob: `cores` kept busy")
	f.TextVar(&k.Memory, "memory", k.Memory, "knob: memory `size` held, such as 64Mi")
	f.TextVar(&k.Leak, "leak", k.Leak, "knob: memory `size` leaked in each second")
	f.Float64Var(&k.LogNoise, "log-noise", k.LogNoise, "knob: useless log `lines` in each second")
	f.BoolVar(&k.Healthy, "healthy", k.Healthy, "knob: what /healthz says")
	f.BoolVar(&k.Ready, "ready", k.Ready, "knob: what /readyz says")
	f.TextVar(&k.CrashAfter, "crash-after", k.CrashAfter, "knob: exit after this `time`")
	f.IntVar(&k.ExitCode, "exit-code", k.ExitCode, "knob: `code` of that exit")
	return f
}

// parse reads the settings: a flag has precedence over the environment
// variable of its name, -error-rate over ERROR_RATE.
func parse(args []string, lookupEnv func(string) (string, bool)) (config, error) {
	var c config
	f := flags(&c)
	var errs []error
	f.VisitAll(func(fl *flag.Flag) {
		name := envName(fl.Name)
		if value, ok := lookupEnv(name); ok && value != "" && fl.Name != "healthcheck" {
			if err := f.Set(fl.Name, value); err != nil {
				errs = append(errs, fmt.Errorf("environment variable %s: invalid value %q: %w", name, value, err))
			}
		}
	})
	if err := errors.Join(errs...); err != nil {
		return c, err
	}
	if err := f.Parse(args); err != nil {
		return c, err
	}
	if f.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if c.port < 0 || c.port > 65535 {
		return c, fmt.Errorf("port %d: must be between 0 and 65535", c.port)
	}
	if c.drainDelay < 0 || c.shutdownTimeout < 0 {
		return c, errors.New("drain-delay and shutdown-timeout must not be negative")
	}
	return c, c.knobs.Validate()
}

func envName(flagName string) string {
	return strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
}

func usage() string {
	var b strings.Builder
	b.WriteString("usage: demo-app [flags]\n\n" +
		"Each flag is also an environment variable: -error-rate is ERROR_RATE.\n" +
		"Knobs can be turned while the app runs:\n\n" +
		"    curl localhost:8080/knobs -d '{\"error_rate\": 0.3, \"latency\": \"250ms\"}'\n" +
		"    curl localhost:8080/knobs/reset -X POST\n\n")
	f := flags(&config{})
	f.SetOutput(&b)
	f.PrintDefaults()
	return b.String()
}
