package web

import (
	_ "embed"
	"hash/fnv"
	"html/template"
	"net/http"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Parse(pageText))

// renderPage shows an answer to a person.
func renderPage(w http.ResponseWriter, answer any, info Info) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	h.Set("Cache-Control", "no-store")
	// The colour is the version's, and each replica has a tint of its own: a
	// rolling update can be watched by reloading.
	_ = page.Execute(w, map[string]any{
		"Answer": answer, "Hue": hash(info.Version) % 360, "Tint": hash(info.Hostname) % 20,
	})
}

func hash(s string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(s)) // never fails
	return h.Sum32()
}
