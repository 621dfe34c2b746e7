// Package dns takes the place of lego's list of DNS providers, see the
// Dockerfile.
package dns

import (
	"fmt"

	"github.com/go-acme/lego/v4/challenge"
	"github.com/go-acme/lego/v4/challenge/dns01"
	"github.com/go-acme/lego/v4/providers/dns/acmedns"
	"github.com/go-acme/lego/v4/providers/dns/exec"
	"github.com/go-acme/lego/v4/providers/dns/httpreq"
	"github.com/go-acme/lego/v4/providers/dns/rfc2136"
)

// NewDNSChallengeProviderByName makes a provider by the name that traefik's
// `dnsChallenge.provider` has.
func NewDNSChallengeProviderByName(name string) (challenge.Provider, error) {
	switch name {
	case "manual":
		return dns01.NewDNSProviderManual()
	case "acme-dns", "acmedns":
		return acmedns.NewDNSProvider()
	case "exec":
		return exec.NewDNSProvider()
	case "httpreq":
		return httpreq.NewDNSProvider()
	case "rfc2136":
		return rfc2136.NewDNSProvider()
	}
	return nil, fmt.Errorf("no DNS provider %q in this build of traefik: it has acme-dns, exec, httpreq, manual and rfc2136", name)
}
