package aws

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/stack"
)

// Why not AWS's client libraries: those of S3 and DynamoDB alone cost every
// start of this program 1.3 ms, and that of EC2 makes it larger by half. What
// is asked here takes three small protocols and the library's signature.

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 16 << 20

// answerError is an answer that is not 2xx.
type answerError struct {
	status int
	body   string
}

func (e *answerError) Error() string {
	text := fmt.Sprintf("%d %s", e.status, http.StatusText(e.status))
	if e.body != "" {
		text += ": " + e.body
	}
	return text
}

// status is that of an answer that is an error, 0 for other errors.
func status(err error) int {
	if e, ok := errors.AsType[*answerError](err); ok {
		return e.status
	}
	return 0
}

// json calls an operation of a service whose protocol is AWS's JSON.
//
// https://smithy.io/2.0/aws/protocols/aws-json-1_1-protocol.html
func (c Cloud) json(ctx context.Context, service, target string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	version := "1.1"
	if service == "dynamodb" || service == "sqs" {
		version = "1.0"
	}
	answer, err := c.call(ctx, service, http.MethodPost, "/", http.Header{
		"Content-Type": {"application/x-amz-json-" + version}, "X-Amz-Target": {target},
	}, body)
	if err == nil {
		err = json.Unmarshal(answer, out)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	return nil
}

// query calls an operation of a service whose protocol is AWS's query protocol.
//
// https://smithy.io/2.0/aws/protocols/aws-query-protocol.html
func (c Cloud) query(ctx context.Context, service, action, version string, in url.Values, out any) error {
	form := url.Values{"Action": {action}, "Version": {version}}
	for name, values := range in {
		form[name] = values
	}
	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded; charset=utf-8"}}
	answer, err := c.call(ctx, service, http.MethodPost, "/", header, []byte(form.Encode()))
	if err == nil {
		err = xml.Unmarshal(answer, out)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	return nil
}

// s3 calls an operation of S3 on a bucket, "" for none.
func (c Cloud) s3(ctx context.Context, method, bucket string, in url.Values, body string) ([]byte, error) {
	path := "/" + bucket
	if len(in) > 0 {
		path += "?" + in.Encode()
	}
	return c.call(ctx, "s3", method, path, http.Header{}, []byte(body))
}

// call sends a signed request: the signature also tells which service is meant.
func (c Cloud) call(ctx context.Context, service, method, path string, header http.Header, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.Endpoint, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("endpoint %s: %w: %w", c.Endpoint, err, errdefs.ErrInvalidArgument)
	}
	req.Header = header
	sum := sha256.Sum256(body)
	digest := hex.EncodeToString(sum[:])
	header.Set("X-Amz-Content-Sha256", digest)
	credentials := aws.Credentials{AccessKeyID: AccessKey, SecretAccessKey: SecretKey}
	if err := v4.NewSigner().SignHTTP(ctx, credentials, req, digest, service, c.Region, time.Now()); err != nil {
		return nil, err
	}
	return c.do(req)
}

// do returns the body of a 2xx answer, an answerError for others, and
// errdefs.ErrUnavailable when nobody answers.
func (c Cloud) do(req *http.Request) ([]byte, error) {
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode/100 != 2 {
		return nil, &answerError{resp.StatusCode, fmt.Sprintf("%.500s", bytes.TrimSpace(answer))}
	}
	return answer, nil
}

// explain says what to do about an endpoint at which nobody answers.
func (c Cloud) explain(err error) error {
	var op interface{ Timeout() bool }
	down := errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op) && op.Timeout()
	if !down || errors.Is(err, context.Canceled) {
		return err
	}
	return stack.WithHint(fmt.Errorf("no AWS answers at %s: %w: %w", c.Endpoint, err, errdefs.ErrUnavailable), "sudo sandbox up --only "+Name)
}
