package clients

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"

	"pulsegate/conformance/blackbox"
)

// backend is a registered program without a user.
type backend struct {
	*blackbox.Client
	world *world
	name  string
}

// backend registers a program whose key is new.
func (w *world) backend(name, scope string) *backend {
	w.t.Helper()
	k, err := blackbox.NewKey()
	w.must(err)
	set, err := k.JWKS()
	w.must(err)
	var reg struct {
		ClientID string `json:"client_id"`
	}
	w.must(w.srv.Run(&reg, "client", "add", "--name", name, "--scope", scope, "--jwks",
		w.file(name+".json", set)))
	return &backend{world: w, name: name, Client: &blackbox.Client{Base: w.srv.Base, ID: reg.ClientID, Key: k,
		Scope: scope, HTTP: http.DefaultClient}}
}

// features runs a program of testdata against the server at base, and returns the
// problem with each feature it used, or "".
func (b *backend) features(node, program, library, base string) map[string]string {
	b.world.t.Helper()
	token, err := b.Token()
	b.world.must(err)
	cmd := exec.Command(node, "--experimental-websocket", filepath.Join("testdata", program))
	cmd.Env = append(os.Environ(), "LIBRARY="+library, "BASE="+base, "TOKEN="+token, "RUN="+b.name)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		b.world.t.Fatalf("%v\n%s", err, out)
	}
	results := map[string]string{}
	b.world.must(json.Unmarshal(out, &results))
	if len(results) == 0 {
		b.world.t.Fatal("the program used no feature")
	}
	return results
}
