package sealed

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/pebbletest"
)

func newKey() (k ClusterKey) {
	_, _ = rand.Read(k.secret[:]) // crypto/rand never fails
	return k
}

func (k ClusterKey) text() string { return base64.StdEncoding.EncodeToString(k.secret[:]) }

func open(t *testing.T, st Store, keys ...ClusterKey) *Vault {
	t.Helper()
	v, err := tryOpen(st, keys...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func tryOpen(st Store, keys ...ClusterKey) (*Vault, error) {
	ks := Keys{Current: keys[0]}
	if len(keys) > 1 {
		ks.Other = &keys[1]
	}
	return Open(context.Background(), st, ks)
}

func get(t *testing.T, v *Vault, name string) string {
	t.Helper()
	s, err := v.Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return string(s.Value)
}

func random() ([]byte, error) { return []byte(rand.Text()), nil }

func TestReadKeys(t *testing.T) {
	a, b := newKey(), newKey()
	path := filepath.Join(t.TempDir(), "cluster.key")
	write := func(text string, mode os.FileMode) (Keys, error) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return ReadKeys(path)
	}
	for text, want := range map[string][]ClusterKey{
		a.text():                               {a},
		a.text() + "\n":                        {a},
		"  " + a.text() + "\r\n\n":             {a},
		a.text() + "\n" + b.text():             {a, b},
		"\n" + b.text() + "\n\n" + a.text():    {b, a},
		b.text() + "\r\n" + a.text() + "\r\n ": {b, a},
	} {
		for _, mode := range []os.FileMode{0o600, 0o400, 0o440} {
			got, err := write(text, mode)
			if err != nil || !slices.Equal(got.All(), want) || got.Current != want[0] {
				t.Errorf("%d lines, mode %o: %v", strings.Count(text, "\n"), mode, err)
			}
		}
	}
	zero := base64.StdEncoding.EncodeToString(make([]byte, keySize))
	for text, rule := range map[string]string{
		"":                            "it is empty",
		"\n \n":                       "it is empty",
		a.text()[1:]:                  "line 1 is not a key of 32 bytes in base64",
		a.text() + "\n\n" + "key":     "line 3 is not a key of 32 bytes in base64",
		a.text() + b.text():           "line 1 is not a key",
		a.text()[:42] + "==":          "line 1 is not a key",
		zero:                          "line 1 is not random",
		a.text() + "\n" + a.text():    "its two keys are the same",
		strings.Repeat(zero, 200):     "more than 4096 bytes",
		strings.Repeat("x\n", 10_000): "more than 4096 bytes",
		a.text() + "\n" + b.text() + "\n" + newKey().text(): "more than two keys",
	} {
		if _, err := write(text, 0o600); err == nil || !strings.Contains(err.Error(), rule) {
			t.Errorf("want %q, got %v", rule, err)
		} else if strings.Contains(err.Error(), a.text()[:8]) {
			t.Error("the error contains key bytes")
		}
	}
	for _, mode := range []os.FileMode{0o604, 0o644, 0o660, 0o620, 0o602, 0o601} {
		if _, err := write(a.text(), mode); err == nil || !strings.Contains(err.Error(), "set its mode to 0600") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if _, err := ReadKeys(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) ||
		!strings.Contains(err.Error(), "cluster-key-file") {
		t.Error(err)
	}
	if _, err := ReadKeys(t.TempDir()); err == nil {
		t.Error("a directory is not a key file")
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	k := newKey()
	v := open(t, pebbletest.Open(t), k)
	s, err := v.Make(t.Context(), "a", func() ([]byte, error) { return []byte("very secret"), nil })
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("keys", "key", k, "keys", Keys{Current: k, Other: &k})
	}
	out := log.String()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		out += fmt.Sprintf(verb, k) + fmt.Sprintf(verb, &k) + fmt.Sprintf(verb, Keys{Current: k, Other: &k}) +
			fmt.Sprintf(verb, s)
	}
	for _, secret := range []string{k.text()[:8], fmt.Sprintf("%x", k.secret[:4]), fmt.Sprint(k.secret[:3]),
		"very", fmt.Sprintf("%x", "very"), fmt.Sprint([]byte("very"))} {
		if strings.Contains(out, strings.Trim(secret, "[]")) {
			t.Errorf("printed: %s", secret)
		}
	}
}

func TestDerive(t *testing.T) {
	k := ClusterKey{[keySize]byte(bytes.Repeat([]byte{1}, keySize))}
	// Servers of different releases must derive the same keys.
	if got := fmt.Sprintf("%x", Derive(k, "peer TLS", 16)); got != "56b4f3cf52b37768d84bc457c7d5d6fd" {
		t.Error(got)
	}
	if len(Derive(k, "a", 100)) != 100 || bytes.Equal(Derive(k, "a", 32), Derive(k, "b", 32)) ||
		bytes.Equal(Derive(k, "a", 32), Derive(newKey(), "a", 32)) {
		t.Error("derived keys are not separate")
	}
}

// raw returns the stored values.
func raw(t *testing.T, st store.State) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := st.List(t.Context(), "", func(key string, value []byte) bool {
		if !strings.HasPrefix(key, "index/") { // of the store itself
			out[strings.Clone(key)] = string(value)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func put(t *testing.T, st store.State, key, value string) {
	t.Helper()
	if _, err := st.Commit(t.Context(), &store.Batch{State: []store.StateWrite{{Key: key,
		Value: []byte(value)}}}); err != nil {
		t.Fatal(err)
	}
}

// TestAgainstMap compares two vaults over one store with a map.
func TestAgainstMap(t *testing.T) {
	st, k := pebbletest.Open(t), newKey()
	names := []string{"a", "b/1", "b/2", "c"}
	rapid.Check(t, func(rt *rapid.T) {
		vs := []*Vault{open(t, st, k), open(t, st, k)}
		want := map[string]string{checkName: checkText}
		for _, name := range names {
			s, err := vs[0].Get(t.Context(), name)
			if err == nil && s.Exists() {
				_, err = vs[0].Replace(t.Context(), s, nil)
			}
			if err != nil {
				rt.Fatal(err)
			}
		}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			v := vs[rapid.IntRange(0, 1).Draw(rt, "process")]
			name, value := rapid.SampledFrom(names).Draw(rt, "name"), rapid.String().Draw(rt, "value")
			old, err := v.Get(t.Context(), name)
			if err != nil {
				rt.Fatal(err)
			}
			switch rapid.IntRange(0, 3).Draw(rt, "step") {
			case 0:
				s, err := v.Make(t.Context(), name, func() ([]byte, error) { return []byte(value), nil })
				if _, ok := want[name]; !ok {
					want[name] = value
				}
				if err != nil || string(s.Value) != want[name] || !s.Exists() {
					rt.Fatal(s, err)
				}
			case 1:
				s, err := v.Replace(t.Context(), old, []byte(value))
				if err != nil {
					rt.Fatal(err)
				}
				if _, err := vs[0].Replace(t.Context(), old, []byte("late")); fhir.KindOf(err) != fhir.Conflict {
					rt.Fatal("a late replacement:", err)
				}
				if _, err := vs[1].Replace(t.Context(), s, []byte(value+"2")); err != nil {
					rt.Fatal(err)
				}
				want[name] = value + "2"
			case 2:
				if !old.Exists() {
					continue
				}
				if _, err := v.Replace(t.Context(), old, nil); err != nil {
					rt.Fatal(err)
				}
				delete(want, name)
			}
			got := map[string]string{}
			err = vs[0].List(t.Context(), "", func(s Secret) bool { got[s.Name] = string(s.Value); return true })
			if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				rt.Fatal(got, want, err)
			}
		}
		n := 0
		err := vs[0].List(t.Context(), "b/", func(s Secret) bool {
			if n++; !strings.HasPrefix(s.Name, "b/") {
				rt.Fatal(s.Name)
			}
			return false
		})
		if err != nil || n > 1 {
			rt.Fatal(n, err)
		}
	})
}

func TestStoredValuesAreSealed(t *testing.T) {
	st := pebbletest.Open(t)
	v := open(t, st, newKey())
	const secret = "a very secret text"
	for _, name := range []string{"a", "b"} {
		if _, err := v.Make(t.Context(), name, func() ([]byte, error) { return []byte(secret), nil }); err != nil {
			t.Fatal(err)
		}
	}
	rows := raw(t, st)
	for key, value := range rows {
		if strings.Contains(value, secret) || !strings.HasPrefix(key, prefix) {
			t.Errorf("%s: %q", key, value)
		}
	}
	if len(rows) != 3 || rows["sealed/a"] == rows["sealed/b"] {
		t.Error("two values were sealed alike")
	}
	// A changed value, one under another name, and one that is cut off.
	for text, value := range map[string]string{
		"was changed":                    rows["sealed/a"][:20] + "x" + rows["sealed/a"][21:],
		"was changed ":                   rows["sealed/b"],
		"was changed, or":                rows["sealed/a"][:head+3],
		"not a sealed value":             "x",
		"not a sealed value of this rel": "\x02" + rows["sealed/a"][1:],
	} {
		put(t, st, "sealed/a", value)
		_, err := v.Get(t.Context(), "a")
		if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(text)) || store.Lost(err) ||
			!strings.Contains(err.Error(), "sealed/a") {
			t.Errorf("want %q, got %v", text, err)
		}
		if _, err := v.Make(t.Context(), "a", random); err == nil {
			t.Error("Make replaced a secret that cannot be opened")
		}
	}
	_, err := v.Make(t.Context(), "large", func() ([]byte, error) { return make([]byte, MaxSecret+1), nil })
	if err == nil {
		t.Error("too large")
	}
	if _, err := v.Make(t.Context(), strings.Repeat("n", maxName+1), random); err == nil {
		t.Error("too long a name")
	}
	if _, err := v.Make(t.Context(), "failed", func() ([]byte, error) { return nil, io.EOF }); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// TestMakeOnce checks that all of several processes that make a secret at a time use
// the same one. The control does not look whether another process was faster.
func TestMakeOnce(t *testing.T) {
	careless := func(v *Vault, ctx context.Context, name string, generate func() ([]byte, error)) (Secret, error) {
		s, err := v.Get(ctx, name)
		if err != nil || s.Exists() {
			return s, err
		}
		value, err := generate()
		if err != nil {
			return s, err
		}
		w, s, err := v.Write(s, value)
		if err != nil {
			return s, err
		}
		w.Expect = store.StateAny
		_, err = v.store.Commit(ctx, &store.Batch{State: []store.StateWrite{w}})
		return s, err
	}
	for _, c := range []struct {
		name     string
		make     func(*Vault, context.Context, string, func() ([]byte, error)) (Secret, error)
		distinct int
	}{{"make", (*Vault).Make, 1}, {"control", careless, 4}} {
		t.Run(c.name, func(t *testing.T) {
			st, k := pebbletest.Open(t), newKey()
			const processes = 4
			var all, generated sync.WaitGroup
			generated.Add(processes)
			secrets := make([]string, processes)
			for i := range processes {
				v := open(t, st, k)
				all.Go(func() {
					s, err := c.make(v, t.Context(), "a", func() ([]byte, error) {
						generated.Done() // all have found that there is no secret before one is stored
						generated.Wait()
						return random()
					})
					if err != nil {
						t.Error(err)
					}
					secrets[i] = string(s.Value)
				})
			}
			all.Wait()
			slices.Sort(secrets)
			if got := len(slices.Compact(secrets)); got != c.distinct {
				t.Errorf("%d different secrets", got)
			}
		})
	}
}

func TestWrongClusterKey(t *testing.T) {
	st, right, wrong := pebbletest.Open(t), newKey(), newKey()
	v := open(t, st, right)
	if _, err := v.Make(t.Context(), "a", random); err != nil {
		t.Fatal(err)
	}
	before := raw(t, st)
	_, err := tryOpen(st, wrong)
	if !errors.Is(err, ErrKey) || store.Lost(err) {
		t.Fatal(err)
	}
	for _, part := range []string{"sealed/cluster-key", right.ID(), wrong.ID(), "cluster-key-file", "second line"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not contain %q", err, part)
		}
	}
	if after := raw(t, st); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Error("a server with another key changed the store")
	}
	if _, err := tryOpen(st, wrong, newKey()); !errors.Is(err, ErrKey) {
		t.Error(err)
	}
	if got := get(t, open(t, st, wrong, right), "a"); got != get(t, v, "a") {
		t.Error(got)
	}
}

// TestReplaceClusterKey follows the steps of the package comment with two processes,
// one of which is always a step behind.
func TestReplaceClusterKey(t *testing.T) {
	st, old, fresh := pebbletest.Open(t), newKey(), newKey()
	files := [][]ClusterKey{{old}, {old, fresh}, {fresh, old}, {fresh}}
	one := open(t, st, old)
	want := map[string]string{}
	write := func(v *Vault, name string) {
		t.Helper()
		s, err := v.Make(t.Context(), name, random)
		if err != nil {
			t.Fatal(err)
		}
		want[name] = string(s.Value)
	}
	write(one, "first")
	for step, file := range files[1:] {
		two := open(t, st, file...)
		write(one, fmt.Sprint(step, "one"))
		write(two, fmt.Sprint(step, "two"))
		for name, value := range want {
			if get(t, one, name) != value || get(t, two, name) != value {
				t.Errorf("step %d: %s", step, name)
			}
		}
		one = open(t, st, file...)
		if step == 1 {
			if _, err := tryOpen(st, fresh); !errors.Is(err, ErrKey) {
				t.Error("the old key was removed before Reseal:", err)
			}
			// The secrets made before both servers had the new key first, and the check.
			if n, err := one.Reseal(t.Context()); err != nil || n != 5 {
				t.Error(n, err)
			}
			if n, err := one.Reseal(t.Context()); err != nil || n != 0 {
				t.Error("again:", n, err)
			}
		}
	}
	if _, err := tryOpen(st, old); !errors.Is(err, ErrKey) {
		t.Error("the old key still opens the vault:", err)
	}
}

func TestResealFindsWhatCannotBeOpened(t *testing.T) {
	st, k := pebbletest.Open(t), newKey()
	v := open(t, st, k)
	put(t, st, "sealed/b", "\x01spoiled")
	if _, err := v.Reseal(t.Context()); err == nil || !strings.Contains(err.Error(), "sealed/b") {
		t.Error(err)
	}
}

func TestDiscard(t *testing.T) {
	st, lost, fresh := pebbletest.Open(t), newKey(), newKey()
	v := open(t, st, lost)
	for _, name := range []string{"a", "b"} {
		if _, err := v.Make(t.Context(), name, random); err != nil {
			t.Fatal(err)
		}
	}
	put(t, st, "other", "kept")
	if names, err := Discard(t.Context(), st, Keys{Current: fresh, Other: &lost}); err != nil || names != nil {
		t.Error("with the key:", names, err)
	}
	names, err := Discard(t.Context(), st, Keys{Current: fresh})
	if err != nil || !slices.Equal(names, []string{"a", "b", checkName}) {
		t.Error(names, err)
	}
	v = open(t, st, fresh)
	if s, err := v.Get(t.Context(), "a"); err != nil || s.Exists() {
		t.Error(s, err)
	}
	if rows := raw(t, st); len(rows) != 2 || rows["other"] != "kept" {
		t.Error(len(rows))
	}
}

// TestValueSeesChanges checks that a Value of one process shows what another process
// has written a moment ago, and decodes only then.
func TestValueSeesChanges(t *testing.T) {
	st, k := pebbletest.Open(t), newKey()
	one, two := open(t, st, k), open(t, st, k)
	decoded := 0
	val := NewValue(two, "a", func(b []byte) (string, error) {
		decoded++
		if string(b) == "bad" {
			return "", io.EOF
		}
		return string(b), nil
	})
	check := func(want string, decodings int) Secret {
		t.Helper()
		got, s, err := val.Get(t.Context())
		if err != nil || got != want || decoded != decodings || s.Exists() != (want != "") {
			t.Errorf("%q after %d decodings: %v", got, decoded, err)
		}
		return s
	}
	check("", 1)
	s, err := one.Make(t.Context(), "a", func() ([]byte, error) { return []byte("1"), nil })
	if err != nil {
		t.Fatal(err)
	}
	check("1", 2)
	put(t, st, "another", "x")
	check("1", 2)
	check("1", 2)
	if _, err = one.Replace(t.Context(), s, []byte("2")); err != nil {
		t.Fatal(err)
	}
	if _, err := two.Replace(t.Context(), check("2", 3), []byte("bad")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := val.Get(t.Context()); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if s, err = one.Get(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err = one.Replace(t.Context(), s, nil); err != nil {
		t.Fatal(err)
	}
	check("", 5)
}

// TestUnchanged checks the precondition for batches that depend on a secret.
func TestUnchanged(t *testing.T) {
	st := pebbletest.Open(t)
	v := open(t, st, newKey())
	commit := func(s Secret) error {
		_, err := st.Commit(t.Context(), &store.Batch{State: []store.StateWrite{s.Unchanged(),
			{Key: "x", Value: []byte(rand.Text())}}})
		return err
	}
	none, err := v.Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	one, err := v.Make(t.Context(), "a", random)
	if err != nil {
		t.Fatal(err)
	}
	if err := commit(none); fhir.KindOf(err) != fhir.Conflict {
		t.Error(err)
	}
	if err := commit(one); err != nil {
		t.Error(err)
	}
	if _, err := v.Replace(t.Context(), one, one.Value); err != nil {
		t.Fatal(err)
	}
	if err := commit(one); fhir.KindOf(err) != fhir.Conflict {
		t.Error(err)
	}
}

// TestClear checks that Clear deletes the secrets under every key, and nothing else.
func TestClear(t *testing.T) {
	st := pebbletest.Open(t)
	if _, err := open(t, st, newKey()).Make(t.Context(), "x",
		func() ([]byte, error) { return []byte("v"), nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Commit(t.Context(), &store.Batch{State: []store.StateWrite{{Key: "other",
		Value: []byte("kept")}}}); err != nil {
		t.Fatal(err)
	}
	next := newKey()
	if _, err := tryOpen(st, next); !errors.Is(err, ErrKey) {
		t.Errorf("before, with another key: %v", err)
	}
	for range 2 {
		if err := Clear(t.Context(), st); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := open(t, st, next).Get(t.Context(), "x"); err != nil || s.Exists() {
		t.Errorf("the secret exists: %v, %v", s.Exists(), err)
	}
	if v, err := st.Get(t.Context(), "other"); err != nil || string(v) != "kept" {
		t.Errorf("another row: %q, %v", v, err)
	}
}
