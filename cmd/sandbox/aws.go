package main

import (
	"context"
	"os"
	"os/user"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/aws"
	"github.com/sandboxlabs/sandbox/pkg/stack/aws/profile"
	"github.com/sandboxlabs/sandbox/pkg/stack/aws/terraform"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
	"github.com/sandboxlabs/sandbox/pkg/stack/internals"
	"github.com/sandboxlabs/sandbox/pkg/state"
	awsfiles "github.com/sandboxlabs/sandbox/sandbox/stack/aws"
)

// newAWSStage returns the stage aws.
func newAWSStage(dirs state.Dirs, engine *docker.Engine) *aws.Stage {
	return aws.New(aws.Config{
		Dirs: dirs, Builds: []string{internals.Name}, Docker: engine, Init: awsfiles.Init(),
		Settings: func() (api.Settings, error) { return stack.Kept(dirs) },
	})
}

// userAWS is cli.AWS: what needs no daemon.
type userAWS struct{ aws.Cloud }

func newAWS(dirs state.Dirs, endpoint string) userAWS {
	if endpoint == "" {
		// Only root can read them; others go by what is usual.
		settings, _ := stack.Kept(dirs)
		endpoint = aws.Endpoint(settings)
	}
	return userAWS{aws.Cloud{Endpoint: endpoint, Region: aws.DefaultRegion}}
}

func (a userAWS) Access() api.AWSAccess {
	return api.AWSAccess{Endpoint: a.Endpoint, Region: a.Region, AccessKey: aws.AccessKey, SecretKey: aws.SecretKey}
}

func (a userAWS) List(ctx context.Context) ([]api.AWSItem, error) {
	items, err := a.Cloud.List(ctx)
	return items, forUser(err)
}

func (a userAWS) WriteProfile(_ context.Context, name string) ([]string, error) {
	files, err := profileFiles()
	if err != nil {
		return nil, err
	}
	changed, err := profile.Write(files, profile.Profile{
		Name: name, Endpoint: a.Endpoint, Region: a.Region, AccessKey: aws.AccessKey, SecretKey: aws.SecretKey,
	})
	return changed, forUser(err)
}

func (a userAWS) RemoveProfile(_ context.Context, name string) ([]string, error) {
	files, err := profileFiles()
	if err != nil {
		return nil, err
	}
	changed, err := profile.Remove(files, name)
	return changed, forUser(err)
}

// profileFiles are those of the person at the keyboard, also under sudo, whose
// environment is root's.
func profileFiles() (profile.Files, error) {
	if name := os.Getenv("SUDO_USER"); name != "" && os.Geteuid() == 0 {
		u, err := user.Lookup(name)
		if err != nil {
			return profile.Files{}, err
		}
		return profile.FilesOf(u.HomeDir, func(string) string { return "" }), nil
	}
	home, err := os.UserHomeDir()
	return profile.FilesOf(home, os.Getenv), err
}

func (a userAWS) InitTerraform(_ context.Context, dir string, lockfile bool) (api.TerraformDir, error) {
	done, err := terraform.InitDir(dir, terraform.Options{
		Endpoint: a.Endpoint, Region: a.Region, Bucket: aws.DefaultBucket, Table: aws.DefaultTable, UseLockfile: lockfile,
	})
	return done, forUser(err)
}
