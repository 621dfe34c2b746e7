module github.com/sandboxlabs/sandbox/images/toolbox/stress

go 1.26.0

require golang.org/x/sys v0.49.0
