package kube

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/stack/cluster/kubeconfig"
)

// certificate makes one that signs itself, as client and as authority.
func certificate(t *testing.T) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "admin"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// server answers requests by path, to those with a certificate.
func server(t *testing.T, answers map[string]string) *Client {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) != 1 || r.TLS.PeerCertificates[0].Subject.CommonName != "admin" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		body, ok := answers[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			body = `{"kind":"Status","message":"the server could not find the requested resource"}`
		}
		_, _ = io.WriteString(w, body)
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.Config.ErrorLog = zap.NewStdLog(zap.NewNop()) // strangers are expected
	s.StartTLS()
	t.Cleanup(s.Close)
	cert, key := certificate(t)
	c, err := New(kubeconfig.Entry{
		Name: "x", Server: s.URL, ClientCert: cert, ClientKey: key,
		CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestGet(t *testing.T) {
	c := server(t, map[string]string{"/readyz": "ok", "/x": `{"a":1}`, "/y": `nonsense`})
	if err := c.Live(t.Context()); err != nil {
		t.Error(err)
	}
	var v struct{ A int }
	if err := c.Get(t.Context(), "/x", &v); err != nil || v.A != 1 {
		t.Error(v, err)
	}
	if err := c.Get(t.Context(), "/y", &v); err == nil || !strings.Contains(err.Error(), "GET /y: invalid") {
		t.Error(err)
	}
	if err := c.Get(t.Context(), "/none", &v); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "could not find the requested resource") {
		t.Error(err)
	}
	// Another authority than the server's.
	cert, key := certificate(t)
	stranger, err := New(kubeconfig.Entry{Server: c.server, CA: cert, ClientCert: cert, ClientKey: key})
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.Live(t.Context()); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
	if _, err := New(kubeconfig.Entry{CA: cert, ClientCert: cert, ClientKey: cert}); err == nil {
		t.Error("no error for a certificate without key")
	}
	if _, err := New(kubeconfig.Entry{CA: key, ClientCert: cert, ClientKey: key}); err == nil {
		t.Error("no error for an authority without certificate")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Live(ctx); err == nil {
		t.Error("no error without a context")
	}
}

func TestRefused(t *testing.T) {
	c := server(t, nil)
	c.http.Transport.(*http.Transport).TLSClientConfig.Certificates = nil
	if err := c.Live(t.Context()); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
}

// ready is a cluster of one node with one workload of each kind.
func ready() map[string]string {
	return map[string]string{
		"/api/v1/nodes": `{"items":[{"metadata":{"name":"n1","labels":{"node-role.kubernetes.io/control-plane":""}},
			"status":{"conditions":[{"type":"MemoryPressure","status":"False"},{"type":"Ready","status":"True"}],"nodeInfo":{"kubeletVersion":"v1.34.4"}}}]}`,
		"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases": `{"items":[{"metadata":{"name":"n1"},"spec":{"renewTime":"2026-11-01T10:00:05.123456Z"}}]}`,
		"/apis/apps/v1/deployments": `{"items":[
			{"metadata":{"name":"dns","namespace":"kube-system","generation":2},"spec":{"replicas":2},"status":{"observedGeneration":2,"updatedReplicas":2}},
			{"metadata":{"name":"broken","namespace":"default","generation":2},"spec":{"replicas":2},"status":{}}]}`,
		"/apis/apps/v1/daemonsets": `{"items":[{"metadata":{"name":"proxy","namespace":"kube-system","generation":1},"status":{"observedGeneration":1,"desiredNumberScheduled":1,"updatedNumberScheduled":1}}]}`,
		"/api/v1/pods": `{"items":[
			{"metadata":{"name":"dns-1","namespace":"kube-system"},"spec":{"nodeName":"n1"},"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}],
				"containerStatuses":[{"state":{"running":{"startedAt":"2026-11-01T10:00:04Z"}}}]}},
			{"metadata":{"name":"job-1","namespace":"kube-system"},"status":{"phase":"Succeeded"}},
			{"metadata":{"name":"old","namespace":"kube-system","deletionTimestamp":"2026-11-01T10:00:00Z"},"status":{"phase":"Running"}},
			{"metadata":{"name":"broken-1","namespace":"default"},"status":{"phase":"Pending"}}]}`,
		"/apis/apiregistration.k8s.io/v1/apiservices/v1.x": `{"status":{"conditions":[{"type":"Available","status":"True"}]}}`,
	}
}

func TestLook(t *testing.T) {
	for _, tt := range []struct {
		name, path, from, to string
		want                 []string
	}{
		{"all ready", "", "", "", nil},
		{"node not ready", "/api/v1/nodes", `"Ready","status":"True"`, `"Ready","status":"Unknown"`, []string{"node n1"}},
		{"node not there", "/api/v1/nodes", `"n1"`, `"n2"`, []string{"node n1"}},
		{"what is said of the node is old", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", "10:00:05", "09:59:59", []string{"node n1"}},
		{"no lease yet", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", `"2026-11-01T10:00:05.123456Z"`, "null", []string{"node n1"}},
		{"deployment not seen yet", "/apis/apps/v1/deployments", `"observedGeneration":2`, `"observedGeneration":1`, []string{"deployment kube-system/dns"}},
		{"deployment without a pod yet", "/apis/apps/v1/deployments", `"updatedReplicas":2`, `"updatedReplicas":1`, []string{"deployment kube-system/dns"}},
		{"daemon set without a pod yet", "/apis/apps/v1/daemonsets", `"updatedNumberScheduled":1`, `"updatedNumberScheduled":0`, []string{"daemonset kube-system/proxy"}},
		{"pod not ready", "/api/v1/pods", `"Ready","status":"True"`, `"Ready","status":"False"`, []string{"pod kube-system/dns-1 (not ready)"}},
		{"pod waits", "/api/v1/pods", `{"running":{"startedAt":"2026-11-01T10:00:04Z"}}`, `{"waiting":{"reason":"ImagePullBackOff"}}`, []string{"pod kube-system/dns-1 (ImagePullBackOff)"}},
		{"pod failed", "/api/v1/pods", `{"running":{"startedAt":"2026-11-01T10:00:04Z"}}`, `{"terminated":{"reason":"Error"}}`, []string{"pod kube-system/dns-1 (Error)"}},
		{"what is said of the pod is old", "/api/v1/pods", "10:00:04", "09:59:59", []string{"pod kube-system/dns-1 (from before the node's start)"}},
		{"pod not scheduled", "/api/v1/pods", `"conditions":[{"type":"Ready","status":"True"}],
				"containerStatuses":[{"state":{"running":{"startedAt":"2026-11-01T10:00:04Z"}}}]`, `"conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable"}]`,
			[]string{"pod kube-system/dns-1 (Unschedulable)"}},
		{"API service", "/apis/apiregistration.k8s.io/v1/apiservices/v1.x", "True", "False", []string{"API v1.x"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answers := ready()
			if tt.path != "" {
				changed := strings.Replace(answers[tt.path], tt.from, tt.to, 1)
				if changed == answers[tt.path] {
					t.Fatal("the case changes nothing")
				}
				answers[tt.path] = changed
			}
			since := Since{"n1": time.Date(2026, 11, 1, 10, 0, 0, 500, time.UTC)}
			got, err := server(t, answers).Look(t.Context(), since, []string{"kube-system"}, []string{"v1.x"})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.Missing, tt.want) || got.Ready() != (tt.want == nil) {
				t.Errorf("missing %q, want %q", got.Missing, tt.want)
			}
			if want := len(tt.want) > 0 && strings.HasPrefix(tt.want[0], "pod "); want != (got.Pod == "kube-system/dns-1") {
				t.Errorf("pod %q", got.Pod)
			}
			if got.AllNodes != 1 || got.AllPods != 1 {
				t.Errorf("%+v", got)
			}
			if tt.want == nil && (got.Nodes != 1 || got.Pods != 1 || got.Version != "v1.34.4") {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestLookInVain(t *testing.T) {
	for path := range ready() {
		answers := ready()
		delete(answers, path)
		if _, err := server(t, answers).Look(t.Context(), nil, nil, []string{"v1.x"}); !errdefs.IsNotFound(err) {
			t.Errorf("without %s: %v", path, err)
		}
	}
}
