package server

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pulsegate/fhir/store/pebblestore"
)

// fetch returns the status and body of a GET.
func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestPublicPages checks that the metrics are not served on the public listener,
// and that no public page shows the commit that the server was built from.
func TestPublicPages(t *testing.T) {
	base, out, stop := running(t, t.TempDir(), map[string]string{"metrics-listen": "127.0.0.1:0"})
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	if status, _ := fetch(t, base+"/metrics"); status != http.StatusNotFound {
		t.Errorf("/metrics on the public listener: %d", status)
	}
	for path, want := range map[string]int{"/": 200, "/fhir/metadata": 200, "/auth/none": 404, "/readyz": 200,
		"/livez": 200} {
		status, body := fetch(t, base+path)
		if status != want || strings.Contains(body, versionOfTest) {
			t.Errorf("%s: %d, shows the version: %t", path, status, strings.Contains(body, versionOfTest))
		}
	}
	_, rest, ok := strings.Cut(out.String(), "pulsegate metrics ")
	if !ok {
		t.Fatalf("no address of the metrics: %s", out)
	}
	url, _, _ := strings.Cut(rest, "\n")
	status, body := fetch(t, url)
	if status != http.StatusOK || !strings.Contains(body, "pulsegate_store_disk_free") ||
		!strings.Contains(body, "pulsegate_store_disk_reserve") {
		t.Errorf("metrics: %d, without the free space of the disk", status)
	}
}

func TestPublicVersion(t *testing.T) {
	for v, want := range map[string]string{"dev": "development", "d9606a0": "development",
		"d9606a0-dirty": "development", "v1.2.3": "1.2.3",
		"v1.2.3-4-gd9606a0": "1.2.3", "v1.2.3-4-gd9606a0-dirty": "1.2.3", "1.2.3-dirty": "1.2.3"} {
		if got := publicVersion(v); got != want {
			t.Errorf("%s: %s", v, got)
		}
	}
}

// TestFullDiskIsNotReady checks that readiness and the landing page report a full
// disk, with numbers and without a path.
func TestFullDiskIsNotReady(t *testing.T) {
	for name, c := range map[string]struct {
		space pebblestore.Space
		ready bool
	}{
		"free":    {pebblestore.Space{Free: 200 << 20, Reserve: 100 << 20, Known: true}, true},
		"full":    {pebblestore.Space{Free: 7 << 20, Reserve: 100 << 20, Known: true}, false},
		"unknown": {pebblestore.Space{Reserve: 100 << 20}, true},
	} {
		err := spaceError(c.space)
		if (err == nil) != c.ready {
			t.Errorf("%s: %v", name, err)
		}
		page, perr := newLanding("https://pulse.example.org", func() error { return err })
		if perr != nil {
			t.Fatal(perr)
		}
		w := httptest.NewRecorder()
		page.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		body := w.Body.String()
		if strings.Contains(body, "Healthy") != c.ready {
			t.Errorf("%s: the landing page disagrees", name)
		}
		if !c.ready && (!strings.Contains(body, "7 MiB") || !strings.Contains(body, "100 MiB")) {
			t.Errorf("%s: no numbers on the landing page", name)
		}
	}
}
