package api

// AWSItem is something that is in the sandbox's AWS.
type AWSItem struct {
	Kind string `json:"kind"` // "S3 bucket", "VPC", …
	Name string `json:"name"`
	Note string `json:"note,omitempty"`
}

// AWSAccess is where an AWS is, and who to be there.
type AWSAccess struct {
	Endpoint  string `json:"endpoint"` // URL of all services
	Region    string `json:"region"`
	AccessKey string `json:"access_key"`
	SecretKey string `json:"secret_key"`
}

// TerraformDir is what was done to have a folder of Terraform's use an AWS.
type TerraformDir struct {
	File    string `json:"file"`
	Changed bool   `json:"changed"` // it was not there, or is another now
	State   string `json:"state"`   // s3://BUCKET/KEY
	Lock    string `json:"lock"`    // "table NAME" or "lock file"
	// Providers are those that are led there, as NAME or NAME.ALIAS.
	Providers []string `json:"providers"`
	// Replaced is the bucket that the configuration names, if it does.
	Replaced string `json:"replaced,omitempty"`
}
