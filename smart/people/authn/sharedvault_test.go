package authn_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/cluster/sealed/sealedtest"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/pebbletest"
	"pulsegate/smart/people/authn"
)

// openShared opens the Vault of a process of a cluster.
func openShared(t *testing.T, st store.Store, fresh bool) *authn.Vault {
	t.Helper()
	v, err := authn.OpenSharedVault(t.Context(), sealedtest.Open(t, st, "cluster"), fresh)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func opens(v *authn.Vault, sealed []byte) bool {
	got, err := v.Open("p", sealed)
	return err == nil && string(got) == "secret"
}

// TestSharedVault interrupts the first start of a process, which has found no key, by
// that of another one. Both must open what the other one seals.
func TestSharedVault(t *testing.T) {
	for name, control := range map[string]bool{"": false, "control": true} {
		t.Run(name, func(t *testing.T) {
			db := pebbletest.Open(t)
			var one *authn.Vault
			two := openShared(t, &sealedtest.Interrupted{Store: db, Key: "sealed/seal-key", Careless: control,
				By: func() { one = openShared(t, db, true) }}, true)
			ok := opens(one, two.Seal("p", []byte("secret"))) && opens(two, one.Seal("p", []byte("secret")))
			if ok == control {
				t.Errorf("the processes open each other's values: %t", ok)
			}
			if !opens(openShared(t, db, false), two.Seal("p", []byte("secret"))) {
				t.Error("a later process has another key")
			}
		})
	}
}

// TestLostSharedKey checks that a missing key is not replaced silently.
func TestLostSharedKey(t *testing.T) {
	secrets := sealedtest.Open(t, pebbletest.Open(t), "cluster")
	if _, err := authn.OpenSharedVault(t.Context(), secrets, false); fhir.KindOf(err) != fhir.Conflict ||
		!strings.Contains(err.Error(), "pulsegate recover seal-key") {
		t.Errorf("a missing key: %v", err)
	}
	s, err := secrets.Get(t.Context(), "seal-key")
	if err != nil || s.Exists() {
		t.Fatal("OpenSharedVault failed but created a key", err)
	}
	if _, err := secrets.Replace(t.Context(), s, []byte("short")); err != nil {
		t.Fatal(err)
	}
	if _, err := authn.OpenSharedVault(t.Context(), secrets, true); err == nil {
		t.Error("a short key was accepted or replaced")
	}
}

func TestImportKey(t *testing.T) {
	db, dir := pebbletest.Open(t), t.TempDir()
	secrets := sealedtest.Open(t, db, "cluster")
	imp := func(dir string) bool {
		t.Helper()
		imported, err := authn.ImportKey(t.Context(), dir, secrets)
		if err != nil {
			t.Fatal(err)
		}
		return imported
	}
	if imp(dir) {
		t.Error("imported from an empty directory")
	}
	alone, err := authn.OpenVault(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	if !imp(dir) || !opens(openShared(t, db, false), alone.Seal("p", []byte("secret"))) {
		t.Error("the cluster has another key than the server that it was")
	}
	other := t.TempDir()
	if _, err := authn.OpenVault(other, true); err != nil {
		t.Fatal(err)
	}
	if imp(other) || !imp(dir) {
		t.Error("a second key was imported")
	}
	if err := os.Chmod(filepath.Join(dir, "keys", "seal.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := authn.ImportKey(t.Context(), dir, secrets); err == nil {
		t.Error("imported a key that other users may read")
	}
}
