package sealed_test

import (
	"crypto/rand"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/cluster/sealed"
	"pulsegate/fhir/cluster/sealed/sealedtest"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog/memlog"
)

// TestMembers starts three processes, each with its own store, on an empty log at a time.
// They must make the same secrets and the same key of the notary, and see a replacement
// after Sync.
func TestMembers(t *testing.T) {
	servers := memlog.New(memlog.Options{})
	var members [3]*cluster.Member
	var vaults [3]*sealed.Vault
	for i := range members {
		client := servers.Client(fmt.Sprint("node-", i))
		m, err := cluster.Open(t.Context(), cluster.Options{Log: client, Snapshots: client.Snapshots(),
			Dir:   filepath.Join(t.TempDir(), "store"),
			Store: pebblestore.Options{Shared: &pebblestore.Shared{Node: fmt.Sprint(i), Poll: time.Millisecond}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
		members[i] = m
	}
	keys := sealedtest.Keys(t, "cluster")
	var secrets, verifiers [3]string
	dirs := [3]string{t.TempDir(), t.TempDir(), t.TempDir()}
	var all sync.WaitGroup
	for i, m := range members {
		all.Go(func() {
			v, err := sealed.Open(t.Context(), m, keys)
			if err != nil {
				t.Error(err)
				return
			}
			s, err := v.Make(t.Context(), "a", func() ([]byte, error) { return []byte(rand.Text()), nil })
			if err != nil {
				t.Error(err)
			}
			n, err := audit.OpenSharedNotary(t.Context(), audit.NotaryOptions{Store: m, Dir: dirs[i],
				Rand: rand.Reader, Roles: role.Alone{}}, v)
			if err != nil {
				t.Error(err)
				return
			}
			vaults[i], secrets[i], verifiers[i] = v, string(s.Value), n.Verifier()
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	for i := range members {
		if secrets[i] != secrets[0] || verifiers[i] != verifiers[0] || secrets[i] == "" || verifiers[i] == "" {
			t.Error("two processes made different keys")
		}
	}
	text := func(b []byte) (string, error) { return string(b), nil }
	value := sealed.NewValue(vaults[2], "a", text)
	for i := range 5 {
		s, err := vaults[i%2].Get(t.Context(), "a")
		want := fmt.Sprint(i)
		if err == nil {
			_, err = vaults[i%2].Replace(t.Context(), s, []byte(want))
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range members {
			if err := m.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got, _, err := value.Get(t.Context()); err != nil || got != want {
			t.Errorf("%q, want %q: %v", got, want, err)
		}
	}
}
