//go:build unix

package server

import (
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir/bulk/bucket/s3test"
	"pulsegate/fhir/egress"
)

// TestExportDelivery puts an object into a real object store with what the settings say, and
// refuses settings that cannot work when the server starts.
func TestExportDelivery(t *testing.T) {
	srv := s3test.New(t, "")
	dir := t.TempDir()
	key := write(t, dir, "key", s3test.ID+"\n"+s3test.Secret+"\n")
	set := map[string]string{"export-bucket": srv.URL + "/pulse", "export-bucket-region": s3test.Region,
		"export-bucket-key-file": key, "export-bucket-clients": "ehr,lab", "export-bucket-delete": "true"}
	env := func(change ...string) environment {
		all := map[string]string{}
		for k, v := range set {
			all[k] = v
		}
		for i := 0; i < len(change); i += 2 {
			all[change[i]] = change[i+1]
		}
		return environment{config: settings(t, t.TempDir(), all), now: time.Now,
			egress: egress.Policy{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, AllowHTTP: true}}
	}
	d, err := exportDelivery(env())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(d.Clients, "|") != "ehr|lab" || !d.Remove {
		t.Errorf("%+v", d)
	}
	err = d.Target.Put(t.Context(), "job/Patient.ndjson", func(w io.Writer) error {
		_, err := io.WriteString(w, "{}\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := srv.Objects(); err != nil || got["pulse/job/Patient.ndjson"] != "{}\n" || len(got) != 1 {
		t.Errorf("%v %v", got, err)
	}
	open := write(t, dir, "open", s3test.ID+" "+s3test.Secret)
	if err := os.Chmod(open, 0o604); err != nil {
		t.Fatal(err)
	}
	strict := env()
	strict.egress = egress.Policy{}
	for want, e := range map[string]environment{
		"open to all users":              env("export-bucket-key-file", open),
		"must have an access key id":     env("export-bucket-key-file", write(t, dir, "one", s3test.ID)),
		"the address must name a bucket": env("export-bucket", "https://s3.example.org"),
		"the address must be https":      strict,
		"no such file":                   env("export-bucket-key-file", dir+"/absent"),
	} {
		_, err := exportDelivery(e)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), s3test.Secret) {
			t.Errorf("%q: %v", want, err)
		}
	}
	if d, err := exportDelivery(environment{config: settings(t, t.TempDir(), nil)}); d != nil || err != nil {
		t.Errorf("without a bucket: %v %v", d, err)
	}
}
