package aws

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/stack"
)

// lockKey is the attribute by which Terraform locks.
const lockKey = "LockID"

// property is one that the state's bucket must have: a sub-resource of the
// bucket, and what of it must be there.
//
// https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html
type property struct {
	name     string
	resource string
	has      func(answer []byte) bool
	body     string // to be put
}

const s3Namespace = `xmlns="http://s3.amazonaws.com/doc/2006-03-01/"`

var properties = []property{
	{
		"versioned", "versioning",
		func(answer []byte) bool {
			var v struct{ Status string }
			return xml.Unmarshal(answer, &v) == nil && v.Status == "Enabled"
		},
		`<VersioningConfiguration ` + s3Namespace + `><Status>Enabled</Status></VersioningConfiguration>`,
	},
	{
		"encrypted", "encryption",
		func(answer []byte) bool {
			var v struct {
				Algorithm string `xml:"Rule>ApplyServerSideEncryptionByDefault>SSEAlgorithm"`
			}
			return xml.Unmarshal(answer, &v) == nil && v.Algorithm != ""
		},
		`<ServerSideEncryptionConfiguration ` + s3Namespace + `><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>`,
	},
	{
		"closed to the public", "publicAccessBlock",
		func(answer []byte) bool {
			var v struct{ BlockPublicAcls, BlockPublicPolicy, IgnorePublicAcls, RestrictPublicBuckets bool }
			return xml.Unmarshal(answer, &v) == nil && v.BlockPublicAcls && v.BlockPublicPolicy && v.IgnorePublicAcls && v.RestrictPublicBuckets
		},
		`<PublicAccessBlockConfiguration ` + s3Namespace + `><BlockPublicAcls>true</BlockPublicAcls><IgnorePublicAcls>true</IgnorePublicAcls><BlockPublicPolicy>true</BlockPublicPolicy><RestrictPublicBuckets>true</RestrictPublicBuckets></PublicAccessBlockConfiguration>`,
	},
}

// look reports whether a bucket has the property.
func (p property) look(ctx context.Context, c Cloud, bucket string) (bool, error) {
	answer, err := c.s3(ctx, http.MethodGet, bucket, url.Values{p.resource: {""}}, "")
	if status(err) == http.StatusNotFound {
		return false, nil
	}
	return err == nil && p.has(answer), err
}

// EnsureBucket makes the bucket of the state, unless it is there, has it
// versioned, encrypted and closed to the public, and says what it did.
func (c Cloud) EnsureBucket(ctx context.Context, bucket string) (note string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	note = "already there"
	switch err := c.hasBucket(ctx, bucket); {
	case errdefs.IsNotFound(err):
		body := ""
		if c.Region != DefaultRegion {
			body = `<CreateBucketConfiguration ` + s3Namespace + `><LocationConstraint>` + c.Region + `</LocationConstraint></CreateBucketConfiguration>`
		}
		if _, err := c.s3(ctx, http.MethodPut, bucket, nil, body); err != nil && status(err) != http.StatusConflict {
			return "", fmt.Errorf("create bucket %s: %w", bucket, err)
		}
		note = "made"
	case err != nil:
		return "", err
	}
	var given []string
	for _, p := range properties {
		has, err := p.look(ctx, c, bucket)
		if err == nil && !has {
			given = append(given, p.name)
			if _, err = c.s3(ctx, http.MethodPut, bucket, url.Values{p.resource: {""}}, p.body); err == nil {
				has, err = p.look(ctx, c, bucket)
			}
		}
		if err != nil {
			return "", fmt.Errorf("have bucket %s %s: %w", bucket, p.name, err)
		}
		if !has {
			return "", fmt.Errorf("bucket %s does not become %s: %w", bucket, p.name, errdefs.ErrFailedPrecondition)
		}
	}
	if note == "already there" && len(given) > 0 {
		note = "repaired: " + strings.Join(given, ", ")
	}
	return note, nil
}

func (c Cloud) hasBucket(ctx context.Context, bucket string) error {
	_, err := c.s3(ctx, http.MethodHead, bucket, nil, "")
	switch {
	case err == nil:
		return nil
	case status(err) == http.StatusNotFound:
		return fmt.Errorf("bucket %s: %w", bucket, errdefs.ErrNotFound)
	}
	return fmt.Errorf("look for bucket %s: %w", bucket, err)
}

// Bucket says what the bucket lacks, "" for nothing; errdefs.ErrNotFound when
// there is none.
func (c Cloud) Bucket(ctx context.Context, bucket string) (missing string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := c.hasBucket(ctx, bucket); err != nil {
		return "", err
	}
	var lacks []string
	for _, p := range properties {
		has, err := p.look(ctx, c, bucket)
		if err != nil {
			return "", fmt.Errorf("is bucket %s %s: %w", bucket, p.name, err)
		}
		if !has {
			lacks = append(lacks, "not "+p.name)
		}
	}
	return strings.Join(lacks, ", "), nil
}

// Structures of DynamoDB's CreateTable and DescribeTable.
type (
	tableKey struct {
		AttributeName string
		KeyType       string // HASH
	}
	tableAttribute struct {
		AttributeName string
		AttributeType string // S for a text
	}
	tableDescription struct {
		TableName            string
		TableStatus          string `json:",omitempty"`
		BillingMode          string `json:",omitempty"`
		KeySchema            []tableKey
		AttributeDefinitions []tableAttribute
		ItemCount            int64 `json:",omitempty"`
	}
)

// describeTable is errdefs.ErrNotFound when there is none.
func (c Cloud) describeTable(ctx context.Context, table string) (tableDescription, error) {
	var out struct{ Table tableDescription }
	err := c.json(ctx, "dynamodb", "DynamoDB_20120810.DescribeTable", map[string]string{"TableName": table}, &out)
	if e, ok := errors.AsType[*answerError](err); ok && strings.Contains(e.body, "ResourceNotFoundException") {
		return out.Table, fmt.Errorf("table %s: %w", table, errdefs.ErrNotFound)
	}
	return out.Table, err
}

// EnsureTable makes the table of the locks, unless it is there, and says what
// it did. A table with another key is errdefs.ErrFailedPrecondition.
func (c Cloud) EnsureTable(ctx context.Context, table string) (note string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	note = "already there"
	wrong, err := c.Table(ctx, table)
	if errdefs.IsNotFound(err) {
		note = "made"
		err = c.json(ctx, "dynamodb", "DynamoDB_20120810.CreateTable", tableDescription{
			TableName: table, BillingMode: "PAY_PER_REQUEST",
			KeySchema: []tableKey{{lockKey, "HASH"}}, AttributeDefinitions: []tableAttribute{{lockKey, "S"}},
		}, &struct{}{})
		if e, ok := errors.AsType[*answerError](err); err != nil && !(ok && strings.Contains(e.body, "ResourceInUseException")) {
			return "", fmt.Errorf("create table %s: %w", table, err)
		}
		wrong, err = c.Table(ctx, table)
	}
	for ; err == nil && wrong == stillMade; wrong, err = c.Table(ctx, table) {
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("wait for table %s: %w", table, context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
	}
	if err != nil {
		return "", err
	}
	if wrong != "" {
		return "", stack.WithHint(
			fmt.Errorf("table %s is of no use for locks: %s: %w", table, wrong, errdefs.ErrFailedPrecondition),
			"remove it: aws --profile sandbox dynamodb delete-table --table-name "+table,
		)
	}
	return note, nil
}

const stillMade = "it is still being made"

// Table says what is wrong with the table, "" for nothing; errdefs.ErrNotFound
// when there is none.
func (c Cloud) Table(ctx context.Context, table string) (wrong string, err error) {
	t, err := c.describeTable(ctx, table)
	if err != nil {
		return "", fmt.Errorf("look for the table of locks: %w", err)
	}
	if len(t.KeySchema) != 1 || t.KeySchema[0].AttributeName != lockKey {
		return "its key is not " + lockKey, nil
	}
	for _, a := range t.AttributeDefinitions {
		if a.AttributeName == lockKey && a.AttributeType != "S" {
			return "its key " + lockKey + " is no text", nil
		}
	}
	if t.TableStatus == "CREATING" {
		return stillMade, nil
	}
	return "", nil
}
