package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestConsentCommands checks that a withdrawal prints the withdrawn Consents, only
// once, and that only the operator grants the right to record Consents.
func TestConsentCommands(t *testing.T) {
	s := start(t)
	id := strings.TrimSpace(s.must("patient", "add", "--given", "Ada", "--family", "Muster"))
	apple := strings.TrimSpace(s.must("consent", "grant", "--patient", id, "--vendor", "apple"))
	oura := strings.TrimSpace(s.must("consent", "grant", "--patient", id, "--vendor", "oura"))
	if out := s.must("consent", "withdraw", "--patient", id, "--vendor", "apple"); !strings.Contains(out, apple) ||
		strings.Contains(out, oura) {
		t.Errorf("consent withdraw --vendor apple printed %q", out)
	}
	s.fails("no active consent", "", "consent", "withdraw", "--patient", id, "--vendor", "apple")
	if out := s.must("consent", "withdraw", "--patient", id); !strings.Contains(out, oura) {
		t.Errorf("consent withdraw printed %q", out)
	}
	s.fails("no active consent", "", "consent", "withdraw", "--patient", id)

	keys := s.must("client", "keygen", "--key", "key.jwk")
	if err := os.WriteFile(filepath.Join(s.dir, "keys.json"), []byte(keys), 0o600); err != nil {
		t.Fatal(err)
	}
	add := []string{"client", "add", "--name", "EHR", "--jwks", "keys.json", "--scope", "system/*.cruds"}
	plain := strings.Fields(s.must(add...))[0]
	recorder := strings.Fields(s.must(append(add, "--may-record-consent")...))[0]
	marked := func(id string) bool {
		t.Helper()
		for line := range strings.Lines(s.must("client", "list")) {
			if strings.Contains(line, id) {
				return strings.Contains(line, "record-consent")
			}
		}
		t.Fatalf("client list lacks %s", id)
		return false
	}
	if marked(plain) || !marked(recorder) {
		t.Error("client list does not show which client may record Consents")
	}
	s.must("client", "change", recorder, "--may-record-consent=false")
	s.must("client", "change", plain, "--may-record-consent")
	if !marked(plain) || marked(recorder) {
		t.Error("client change had no effect")
	}
	s.fails("nothing to change", "", "client", "change", plain)

	repaired := func(id string) bool {
		t.Helper()
		return strings.Contains(s.must("client", "show", id), "Phone-made Observations: true")
	}
	phone := strings.Fields(s.must(append(add, "--phone-made")...))[0]
	if !repaired(phone) || repaired(plain) {
		t.Error("client show does not tell whose Observations are repaired")
	}
	s.must("client", "change", phone, "--phone-made=false")
	if repaired(phone) {
		t.Error("client change had no effect")
	}
	s.fails("there is no client with this id", "", "client", "show", "nobody")
}
