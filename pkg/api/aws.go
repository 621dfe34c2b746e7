package api

// AWSItem is something that is in the sandbox's AWS.
type AWSItem struct {
	Kind string `json:"kind"` // "S3 bucket", "VPC", …
	Name string `json:"name"`
	Note string `json:"note,omitempty"`
}
