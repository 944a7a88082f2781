package clients

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pulsegate/conformance/blackbox"
	"pulsegate/conformance/browser"
)

// world is a demo server under a host name, which passkeys require.
type world struct {
	t   *testing.T
	srv *blackbox.Server
	dir string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	bin, err := blackbox.Build(w.dir)
	w.must(err)
	port, err := blackbox.FreePort()
	w.must(err)
	w.srv, err = blackbox.StartAt(bin, filepath.Join(w.dir, "data"), fmt.Sprint("127.0.0.1:", port), "--demo",
		"--base-url", fmt.Sprint("http://localhost:", port))
	w.must(err)
	t.Cleanup(func() {
		if err := w.srv.Stop(); err != nil {
			t.Errorf("%v\n%s", err, w.srv.Log())
		}
	})
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// register registers an app and returns its client id.
func (w *world) register(name, scope, origin string, more ...string) string {
	w.t.Helper()
	var out struct {
		ClientID string `json:"client_id"`
	}
	w.must(w.srv.Run(&out, append([]string{"client", "add", "--name", name, "--scope", scope, "--redirect-uri",
		origin + "/app", "--launch-url", origin + "/launch"}, more...)...))
	return out.ClientID
}

// visit creates an Observation of a patient with an encounter.
func (w *world) visit(patient, encounter string) {
	w.t.Helper()
	k, err := blackbox.NewKey()
	w.must(err)
	set, err := k.JWKS()
	w.must(err)
	const scope = "system/Observation.cruds"
	var reg struct {
		ClientID string `json:"client_id"`
	}
	w.must(w.srv.Run(&reg, "client", "add", "--name", "Clinic", "--scope", scope, "--jwks",
		w.file("clinic-"+encounter+".json", set)))
	c := &blackbox.Client{Base: w.srv.Base, ID: reg.ClientID, Key: k, Scope: scope, HTTP: http.DefaultClient}
	body := fmt.Sprintf(`{"resourceType":"Observation","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8302-2","display":"Body height"}]},
		"subject":{"reference":"Patient/%s"},"encounter":{"reference":"Encounter/%s","display":"Check-up"},"effectiveDateTime":"2026-10-20T09:00:00Z",
		"valueQuantity":{"value":170,"unit":"cm","system":"http://unitsofmeasure.org","code":"cm"}}`, patient,
		encounter)
	status, out, err := c.JSON("POST", "Observation", []byte(body))
	w.must(err)
	if status != 201 {
		w.t.Fatal(status, out)
	}
}

// consents counts the consents of a patient to apps.
func (w *world) consents(patient, status string) (n int) {
	w.t.Helper()
	var out struct{ Consents []struct{ ID, Status string } }
	w.must(w.srv.Run(&out, "consent", "list", "--patient", patient))
	for _, c := range out.Consents {
		if strings.HasPrefix(c.ID, "app-") && c.Status == status {
			n++
		}
	}
	return n
}

// status returns the status of a FHIR request with a token.
func (w *world) status(token, path string) int {
	w.t.Helper()
	r, err := http.NewRequest("GET", w.srv.Base+"/fhir/"+path, nil)
	w.must(err)
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	w.must(err)
	w.must(resp.Body.Close())
	return resp.StatusCode
}

// signIn signs in one of the people of the demo with a new passkey.
func (w *world) signIn(p *browser.Tab, login string) {
	w.t.Helper()
	var out struct{ Link string }
	w.must(w.srv.Run(&out, "user", "reinvite", "--login", login))
	p.Open(out.Link).Click("form button.primary", "Choose how you sign in").Click("button[data-passkey=create]",
		"The passkey is ready")
}

// file writes a file and returns its path.
func (w *world) file(name string, content []byte) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	w.must(os.WriteFile(path, content, 0o600))
	return path
}

// scopeSet returns the set of scopes in s.
func scopeSet(s string) map[string]bool {
	out := map[string]bool{}
	for _, scope := range strings.Fields(s) {
		out[scope] = true
	}
	return out
}

// style reports whether a URL serves a SMART style document.
func (w *world) style(u string) bool {
	w.t.Helper()
	resp, err := http.Get(u)
	w.must(err)
	defer resp.Body.Close()
	var doc map[string]string
	w.must(json.NewDecoder(resp.Body).Decode(&doc))
	return resp.StatusCode == 200 && doc["color_background"] != "" && doc["font_family_body"] != ""
}
