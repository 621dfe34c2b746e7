package aws

import (
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// listed are the services that List asks, in the order of its result.
var listed = []struct {
	service string
	list    func(Cloud, context.Context) ([]api.AWSItem, error)
}{
	{"s3", Cloud.buckets},
	{"dynamodb", Cloud.tables},
	{"secretsmanager", Cloud.secrets},
	{"ssm", Cloud.parameters},
	{"ec2", Cloud.network},
	{"iam", Cloud.identities},
	{"sqs", Cloud.queues},
	{"sns", Cloud.topics},
}

// List says what there is, sorted by service, kind and name. What a service
// that fails has is missing, and its error is part of err.
func (c Cloud) List(ctx context.Context) ([]api.AWSItem, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	used, err := c.used(ctx)
	if err != nil {
		return nil, err
	}
	found := make([][]api.AWSItem, len(listed))
	errs := make([]error, len(listed))
	var wg sync.WaitGroup
	for i, l := range listed {
		if !used(l.service) {
			continue
		}
		wg.Go(func() {
			items, err := l.list(c, ctx)
			if err != nil {
				errs[i] = fmt.Errorf("list what %s has: %w", l.service, err)
			}
			slices.SortStableFunc(items, func(a, b api.AWSItem) int {
				return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
			})
			found[i] = items
		})
	}
	wg.Wait()
	return slices.Concat(found...), errors.Join(errs...)
}

// used tells which services may have anything. LocalStack takes a second to
// load one, and one that it has not loaded, and kept nothing of, has nothing.
func (c Cloud) used(ctx context.Context) (func(service string) bool, error) {
	states, err := c.Health(ctx)
	if err != nil {
		return nil, err
	}
	kept, err := c.Kept(ctx)
	if err != nil {
		return func(string) bool { return true }, nil //nolint:nilerr // it is not our LocalStack: all are asked
	}
	names := map[string]bool{}
	for name, state := range states {
		names[name] = state == "running"
	}
	for _, s := range kept.Services {
		names[s.Service] = true
	}
	return func(service string) bool { return names[service] }, nil
}

func (c Cloud) buckets(ctx context.Context) ([]api.AWSItem, error) {
	answer, err := c.s3(ctx, http.MethodGet, "", nil, "")
	if err != nil {
		return nil, err
	}
	var out struct {
		Names []string `xml:"Buckets>Bucket>Name"`
	}
	if err := xml.Unmarshal(answer, &out); err != nil {
		return nil, err
	}
	var items []api.AWSItem
	for _, name := range out.Names {
		it := api.AWSItem{Kind: "S3 bucket", Name: name}
		var notes []string
		for _, p := range properties {
			has, err := p.look(ctx, c, name)
			if err != nil {
				return nil, err
			}
			if has {
				notes = append(notes, p.name)
			}
		}
		it.Note = strings.Join(notes, ", ")
		items = append(items, it)
	}
	return items, nil
}

func (c Cloud) tables(ctx context.Context) (items []api.AWSItem, err error) {
	var page struct {
		TableNames             []string
		LastEvaluatedTableName string
	}
	for start := "-"; start != "" && err == nil; start = page.LastEvaluatedTableName {
		in := map[string]string{}
		if start != "-" {
			in["ExclusiveStartTableName"] = start
		}
		page.TableNames, page.LastEvaluatedTableName = nil, ""
		err = c.json(ctx, "dynamodb", "DynamoDB_20120810.ListTables", in, &page)
		for _, name := range page.TableNames {
			it := api.AWSItem{Kind: "DynamoDB table", Name: name}
			if t, err := c.describeTable(ctx, name); err == nil {
				it.Note = fmt.Sprintf("%d items", t.ItemCount)
			}
			items = append(items, it)
		}
	}
	return items, err
}

func (c Cloud) secrets(ctx context.Context) (items []api.AWSItem, err error) {
	var page struct {
		SecretList []struct{ Name, Description string }
		NextToken  string
	}
	for token := "-"; token != "" && err == nil; token = page.NextToken {
		page.SecretList, page.NextToken = nil, ""
		err = c.json(ctx, "secretsmanager", "secretsmanager.ListSecrets", next(token), &page)
		for _, s := range page.SecretList {
			items = append(items, api.AWSItem{Kind: "secret", Name: s.Name, Note: s.Description})
		}
	}
	return items, err
}

func (c Cloud) parameters(ctx context.Context) (items []api.AWSItem, err error) {
	var page struct {
		Parameters []struct{ Name, Type string }
		NextToken  string
	}
	for token := "-"; token != "" && err == nil; token = page.NextToken {
		page.Parameters, page.NextToken = nil, ""
		err = c.json(ctx, "ssm", "AmazonSSM.DescribeParameters", next(token), &page)
		for _, p := range page.Parameters {
			items = append(items, api.AWSItem{Kind: "parameter", Name: p.Name, Note: p.Type})
		}
	}
	return items, err
}

func (c Cloud) queues(ctx context.Context) ([]api.AWSItem, error) {
	var page struct{ QueueUrls []string }
	err := c.json(ctx, "sqs", "AmazonSQS.ListQueues", next("-"), &page)
	var items []api.AWSItem
	for _, u := range page.QueueUrls {
		items = append(items, api.AWSItem{Kind: "SQS queue", Name: u[strings.LastIndexByte(u, '/')+1:], Note: u})
	}
	return items, err
}

// next is the input for the page of a token, "-" for the first one.
func next(token string) map[string]string {
	if token == "-" {
		return map[string]string{}
	}
	return map[string]string{"NextToken": token}
}

func (c Cloud) topics(ctx context.Context) ([]api.AWSItem, error) {
	var out struct {
		Topics []struct {
			ARN string `xml:"TopicArn"`
		} `xml:"ListTopicsResult>Topics>member"`
	}
	err := c.query(ctx, "sns", "ListTopics", "2010-03-31", nil, &out)
	var items []api.AWSItem
	for _, t := range out.Topics {
		items = append(items, api.AWSItem{Kind: "SNS topic", Name: t.ARN[strings.LastIndexByte(t.ARN, ':')+1:], Note: t.ARN})
	}
	return items, err
}

// ec2Tags are the tags of something of EC2's.
type ec2Tags []struct {
	Key   string `xml:"key"`
	Value string `xml:"value"`
}

// describe is a note of what matters and the name that it was given.
func (t ec2Tags) describe(what ...string) string {
	for _, tag := range t {
		if tag.Key == "Name" {
			what = append([]string{tag.Value}, what...)
		}
	}
	return strings.Join(slices.DeleteFunc(what, func(s string) bool { return s == "" }), ", ")
}

const ec2Version = "2016-11-15"

func (c Cloud) network(ctx context.Context) ([]api.AWSItem, error) {
	var vpcs struct {
		Set []struct {
			ID      string  `xml:"vpcId"`
			CIDR    string  `xml:"cidrBlock"`
			Default bool    `xml:"isDefault"`
			Tags    ec2Tags `xml:"tagSet>item"`
		} `xml:"vpcSet>item"`
	}
	if err := c.query(ctx, "ec2", "DescribeVpcs", ec2Version, nil, &vpcs); err != nil {
		return nil, err
	}
	var items []api.AWSItem
	usual := map[string]bool{} // the VPC that every account has from the start
	for _, v := range vpcs.Set {
		note := v.Tags.describe(v.CIDR)
		if usual[v.ID] = v.Default; v.Default {
			note += ", the default one"
		}
		items = append(items, api.AWSItem{Kind: "VPC", Name: v.ID, Note: note})
	}
	var subnets struct {
		Set []struct {
			ID   string  `xml:"subnetId"`
			VPC  string  `xml:"vpcId"`
			CIDR string  `xml:"cidrBlock"`
			Zone string  `xml:"availabilityZone"`
			Tags ec2Tags `xml:"tagSet>item"`
		} `xml:"subnetSet>item"`
	}
	if err := c.query(ctx, "ec2", "DescribeSubnets", ec2Version, nil, &subnets); err != nil {
		return items, err
	}
	for _, s := range subnets.Set {
		if !usual[s.VPC] {
			items = append(items, api.AWSItem{Kind: "subnet", Name: s.ID, Note: s.Tags.describe(s.CIDR, s.Zone, s.VPC)})
		}
	}
	var instances struct {
		Set []struct {
			ID    string  `xml:"instanceId"`
			Type  string  `xml:"instanceType"`
			State string  `xml:"instanceState>name"`
			Tags  ec2Tags `xml:"tagSet>item"`
		} `xml:"reservationSet>item>instancesSet>item"`
	}
	if err := c.query(ctx, "ec2", "DescribeInstances", ec2Version, nil, &instances); err != nil {
		return items, err
	}
	for _, in := range instances.Set {
		items = append(items, api.AWSItem{Kind: "instance", Name: in.ID, Note: in.Tags.describe(in.Type, in.State)})
	}
	return items, nil
}

func (c Cloud) identities(ctx context.Context) ([]api.AWSItem, error) {
	var items []api.AWSItem
	for _, l := range []struct{ kind, action, scope string }{
		{"IAM policy", "ListPolicies", "Local"}, {"IAM role", "ListRoles", ""}, {"IAM user", "ListUsers", ""},
	} {
		for marker := "-"; marker != ""; {
			in := url.Values{}
			if marker != "-" {
				in.Set("Marker", marker)
			}
			if l.scope != "" {
				in.Set("Scope", l.scope)
			}
			type member struct{ PolicyName, RoleName, UserName, Arn string }
			var out struct {
				Result struct {
					Policies []member `xml:"Policies>member"`
					Roles    []member `xml:"Roles>member"`
					Users    []member `xml:"Users>member"`
					Marker   string
				} `xml:",any"`
			}
			if err := c.query(ctx, "iam", l.action, "2010-05-08", in, &out); err != nil {
				return items, err
			}
			for _, m := range slices.Concat(out.Result.Policies, out.Result.Roles, out.Result.Users) {
				items = append(items, api.AWSItem{Kind: l.kind, Name: m.PolicyName + m.RoleName + m.UserName, Note: m.Arn})
			}
			marker = out.Result.Marker
		}
	}
	return items, nil
}
