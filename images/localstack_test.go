package images_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/aws"
)

const (
	// awsKills is how often LocalStack is killed while it is written to.
	awsKills = 10
	// awsAdded is how much longer a change may take for being kept.
	awsAdded = 20 * time.Millisecond
)

// TestLocalStack brings the stage aws up from the recipe's image, fills it,
// kills it, and looks whether all that was answered is there.
func TestLocalStack(t *testing.T) {
	s := openSuite(t)
	s.make(t, s.maker(), "localstack", "tools")
	c := newCloud(t, s)
	begun := time.Now()
	notes := c.up()
	t.Logf("measured: stage aws up: %.1f s", time.Since(begun).Seconds())
	if notes["state bucket"] != aws.DefaultBucket+": made" || notes["lock table"] != aws.DefaultTable+": made" || notes["kept state"] != "nothing yet" {
		t.Errorf("first: %v", notes)
	}
	begun = time.Now()
	notes = c.up()
	t.Logf("measured: stage aws up again: %.2f s", time.Since(begun).Seconds())
	if notes["localstack"] != "already there" || notes["state bucket"] != aws.DefaultBucket+": already there" || notes["lock table"] != aws.DefaultTable+": already there" {
		t.Errorf("again: %v", notes)
	}
	c.status(3)
	c.copyTests()
	c.must("drive.py", "fill")
	c.part("unittest", func() { c.must("-m", "unittest", "discover") })
	c.part("kill", c.killAtRest)
	c.part("terraform", c.terraform)
	c.part("VPC", c.vpc)
	c.part("kills", c.killWhileWriting)
	c.part("latency", c.latency)
	c.part("repair", c.repair)
	if k, err := c.Kept(t.Context()); err != nil || k.Refuses != "" || len(k.Problems) > 0 {
		t.Errorf("%+v, %v", k, err)
	}
	c.part("damage", c.damage)
}

// part runs a part of the test, which goes on if that fails.
func (c *cloud) part(name string, do func()) {
	whole := c.t
	whole.Run(name, func(t *testing.T) {
		c.t = t
		defer func() { c.t = whole }()
		do()
	})
}

// killAtRest: all that there is, is there after a kill.
func (c *cloud) killAtRest() {
	before := c.must("drive.py", "world")
	c.kill()
	if after := c.must("drive.py", "world"); after != before {
		c.t.Errorf("what is there after a kill differs:\n%s", differ(before, after))
	}
}

// damage: a file that cannot be read is set aside and reported, and all else
// works.
func (c *cloud) damage() {
	c.must("-c", `
import os
folder = "/var/lib/localstack/state/sandbox/"
with open(folder + "sns.journal", "r+b") as f: f.write(b"garbage")
with open(folder + "s3.journal", "ab") as f: f.write(b"half of a record")
with open(folder + "iam.journal", "r+b") as f:
    f.seek(os.path.getsize(f.name) - 5)
    f.write(b"#####")
`)
	c.kill()
	k, err := c.Kept(c.t.Context())
	if err != nil || k.Refuses != "" || len(k.Problems) != 3 {
		c.t.Errorf("%+v, %v", k, err)
	}
	notes := c.up()
	for _, want := range []string{"sns.journal cannot be read", "s3.journal ends in 16 bytes", "iam.journal ends in", "/aside/"} {
		if !strings.Contains(notes["kept state"], want) {
			c.t.Errorf("no %q in %q", want, notes["kept state"])
		}
	}
	if notes["state bucket"] != aws.DefaultBucket+": already there" {
		c.t.Errorf("%v", notes)
	}
	c.kill()
	if k, err := c.Kept(c.t.Context()); err != nil || len(k.Problems) > 0 {
		c.t.Errorf("at the next start: %+v, %v", k, err)
	}
}

// status expects all items of the stage to be up.
func (c *cloud) status(items int) {
	c.t.Helper()
	for _, st := range c.stack.Status(c.t.Context()) {
		if st.Name == aws.Name && (st.Status != stack.StateUp || len(st.Items) != items || st.Error != "") {
			c.t.Errorf("status: %+v", st)
		}
	}
}

func differ(a, b string) string {
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	var out []string
	for i := range max(len(la), len(lb)) {
		var x, y string
		if i < len(la) {
			x = la[i]
		}
		if i < len(lb) {
			y = lb[i]
		}
		if x != y && len(out) < 40 {
			out = append(out, "- "+x, "+ "+y)
		}
	}
	return strings.Join(out, "\n")
}

// killWhileWriting kills LocalStack while many write to it, each time after
// another number of answers. Each write is there, or was not answered.
func (c *cloud) killWhileWriting() {
	var answered []string
	begun := time.Now()
	for i := range awsKills {
		enough := make(chan struct{})
		done := make(chan []string)
		go func() {
			var lines []string
			wanted := 20 + rand.N(80)
			err := c.stream("", func(line string) {
				if !json.Valid([]byte(line)) {
					return // the last one may be half of one
				}
				if lines = append(lines, line); len(lines) == wanted {
					close(enough)
				}
			}, "drive.py", "write", fmt.Sprint(i+1))
			if len(lines) < wanted {
				c.t.Errorf("writing ended after %d answers: %v", len(lines), err)
				close(enough)
			}
			done <- lines
		}()
		<-enough
		c.kill()
		answered = append(answered, <-done...)
	}
	out, err := c.python(strings.Join(answered, "\n")+"\n", "drive.py", "check")
	var found struct {
		Checked map[string]int
		Missing []any
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), &found)
	}
	if err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
	c.t.Logf("measured: %d kills in %.0f s, writes answered: %v", awsKills, time.Since(begun).Seconds(), found.Checked)
	if len(found.Missing) > 0 {
		c.t.Errorf("answered, and gone after %d kills: %v", awsKills, found.Missing)
	}
	if len(found.Checked) < 7 {
		c.t.Errorf("not everything was written: %v", found.Checked)
	}
}

// latency measures how long changes take, and how much of it they wait for the
// disk.
func (c *cloud) latency() {
	var took map[string]float64 // ms
	if err := json.Unmarshal([]byte(c.must("drive.py", "latency", "50")), &took); err != nil {
		c.t.Fatal(err)
	}
	kept, err := c.Kept(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	var lines []string
	for _, s := range kept.Services {
		if took[s.Service] == 0 {
			continue
		}
		added := time.Duration(s.Median * float64(time.Second))
		lines = append(lines, fmt.Sprintf("%s %.1f ms of %.1f, %d kB", s.Service, added.Seconds()*1e3, took[s.Service], s.Bytes/1000))
		// The figure is for a quiet machine; a busy one gets some grace.
		if added > 5*awsAdded {
			c.t.Errorf("a change of %s takes %v longer for being kept", s.Service, added)
		}
	}
	if len(lines) != len(took) {
		c.t.Errorf("%v of %v", lines, took)
	}
	c.t.Logf("measured: added to a change, medians: %s", strings.Join(lines, "; "))
}

// repair: what of the state's home is missing or changed comes back.
func (c *cloud) repair() {
	script := `
import boto3
s = boto3.Session("test", "test", region_name="us-east-1")
s3 = s.client("s3", endpoint_url="http://127.0.0.1:4566")
s3.put_bucket_versioning(Bucket="sandbox-terraform-state", VersioningConfiguration={"Status": "Suspended"})
s3.delete_public_access_block(Bucket="sandbox-terraform-state")
s.client("dynamodb", endpoint_url="http://127.0.0.1:4566").delete_table(TableName="sandbox-terraform-locks")
`
	c.must("-c", script)
	notes := c.up()
	if got := notes["state bucket"]; !strings.Contains(got, "repaired: versioned, closed to the public") {
		c.t.Errorf("bucket: %q", got)
	}
	if got := notes["lock table"]; !strings.HasSuffix(got, ": made") {
		c.t.Errorf("table: %q", got)
	}
	items, err := c.List(c.t.Context())
	if err != nil {
		c.t.Error(err)
	}
	kinds := map[string]int{}
	for _, it := range items {
		kinds[it.Kind]++
	}
	for _, kind := range []string{"S3 bucket", "DynamoDB table", "secret", "parameter", "VPC", "subnet", "instance", "IAM role", "IAM user", "IAM policy", "SQS queue", "SNS topic"} {
		if kinds[kind] == 0 {
			c.t.Errorf("aws ls has no %s: %v", kind, kinds)
		}
	}
}
