#!/bin/sh
# Copies the notices of all that /src compiles in to /out/licenses: the licences
# ask for them to be kept.
set -e
go list -deps -f '{{with .Module}}{{.Path}}@{{.Version}} {{.Dir}}{{end}}' tool >/tmp/modules
echo go /usr/local/go >>/tmp/modules
sort -u /tmp/modules | while read -r name dir; do
    mkdir -p "/out/licenses/$name"
    find "$dir" -maxdepth 1 -type f -iregex '.*/\(licen[cs]e\|copying\|copyright\|notice\|patents\)[^/]*' \
        -exec install -m 644 {} "/out/licenses/$name/" \;
done
