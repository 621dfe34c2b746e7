package sbom

import (
	"fmt"
	"strings"
)

// purl makes a package URL; see the purl-spec. namespace may have slashes.
func purl(kind, namespace, name, version string) string {
	var b strings.Builder
	b.WriteString("pkg:" + kind + "/")
	for part := range strings.SplitSeq(namespace, "/") {
		if part != "" {
			b.WriteString(escape(part) + "/")
		}
	}
	b.WriteString(escape(name))
	if version != "" {
		b.WriteString("@" + escape(version))
	}
	return b.String()
}

// escape leaves what RFC 3986 calls unreserved, and the colon, which the purl-spec
// does not encode.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~:", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
