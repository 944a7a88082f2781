package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/tlog"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/pebblestore/pebbletest"
)

// tampered is a store that an attacker with access to the disk has modified.
type tampered struct {
	store.Store
	read func(ref fhir.Ref, r *fhir.Resource) error
	rows func() []string // ids of additional rows
	leaf func(i uint64, l store.Leaf) store.Leaf
	size func(n uint64) uint64
	// recompute is set if the hashes were recomputed for the changed leaves.
	recompute bool
}

func (s *tampered) Read(ctx context.Context, ref fhir.Ref, at store.Seq) (fhir.Resource, *access.Facts, error) {
	r, f, err := s.Store.Read(ctx, ref, at)
	if err == nil && s.read != nil {
		r.JSON = bytes.Clone(r.JSON)
		err = s.read(ref, &r)
	}
	return r, f, err
}

func (s *tampered) Inspect(ctx context.Context, typ string, at store.Seq, fn func(*store.Row),
	report func(id, problem string)) error {
	if s.rows != nil {
		for _, id := range s.rows() {
			fn(&store.Row{Resource: fhir.Resource{Type: "AuditEvent", ID: id, Version: 1}, Facts: &access.Facts{}})
		}
	}
	return s.Store.Inspect(ctx, typ, at, fn, report)
}

func (s *tampered) Log() store.Log { return &tamperedLog{s.Store.Log(), s} }

type tamperedLog struct {
	store.Log
	store *tampered
}

func (l *tamperedLog) Size() uint64 {
	if l.store.size != nil {
		return l.store.size(l.Log.Size())
	}
	return l.Log.Size()
}

func (l *tamperedLog) Leaf(i uint64) (store.Leaf, error) {
	if l.store.leaf != nil {
		own, err := l.Log.Leaf(i)
		if err != nil {
			return nil, err
		}
		return l.store.leaf(i, bytes.Clone(own)), nil
	}
	return l.Log.Leaf(i)
}

func (l *tamperedLog) rebuilt() ([]tlog.Hash, error) {
	var all []tlog.Hash
	for i := range l.Size() {
		leaf, err := l.Leaf(i)
		if err != nil {
			return nil, err
		}
		hs, err := tlog.StoredHashes(int64(i), leaf, reader(all))
		if err != nil {
			return nil, err
		}
		all = append(all, hs...)
	}
	return all, nil
}

func reader(all []tlog.Hash) tlog.HashReaderFunc {
	return func(ix []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range ix {
			out = append(out, all[i])
		}
		return out, nil
	}
}

func (l *tamperedLog) Hashes(ix []int64) ([][32]byte, error) {
	if !l.store.recompute {
		return l.Log.Hashes(ix)
	}
	all, err := l.rebuilt()
	if err != nil {
		return nil, err
	}
	var out [][32]byte
	for _, i := range ix {
		out = append(out, all[i])
	}
	return out, nil
}

func (l *tamperedLog) Root(n uint64) ([32]byte, error) {
	if !l.store.recompute {
		return l.Log.Root(n)
	}
	all, err := l.rebuilt()
	if err != nil {
		return [32]byte{}, err
	}
	return tlog.TreeHash(int64(n), reader(all))
}

func logWorld(t *testing.T, n int) (store.Store, *Recorder, *Notary, string) {
	t.Helper()
	st := pebbletest.Open(t)
	rec, err := NewRecorder(Options{Store: st, Clock: time.Now, Rand: rand.Reader,
		Observer: "https://pulse.example.org"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	nt, err := OpenNotary(NotaryOptions{Store: st, Dir: dir, Origin: "pulse.example.org/audit", Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	record(t, rec, n)
	if err := nt.Sign(); err != nil {
		t.Fatal(err)
	}
	return st, rec, nt, dir
}

func record(t *testing.T, rec *Recorder, n int) {
	t.Helper()
	for i := range n {
		evs := []Event{{Type: Rest, Interaction: "read", Patient: "p1",
			Data: []DataRef{{Ref: fhir.Ref{Type: "Observation", ID: "o1"}, Version: 1}}}}
		if i%3 == 0 {
			evs = append(evs, Event{Type: AuditRead, Interaction: "search-type", Query: "GET AuditEvent"})
		}
		if err := rec.Record(context.Background(), evs...); err != nil {
			t.Fatal(err)
		}
	}
}

func leafID(t *testing.T, st store.Store, i uint64) string {
	t.Helper()
	l, err := st.Log().Leaf(i)
	if err != nil {
		t.Fatal(err)
	}
	f, ok := parseLeaf(l)
	if !ok {
		t.Fatal("not a leaf")
	}
	return f.id
}

func TestVerifyFindsEveryClass(t *testing.T) {
	st, rec, nt, _ := logWorld(t, 20)
	older := nt.Checkpoint()
	record(t, rec, 15)
	if err := nt.Sign(); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	opts := VerifyOptions{Verifier: nt.Verifier(), Also: [][]byte{older}}
	good, err := Verify(ctx, st, nt.Checkpoint(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if !good.OK || good.Size != st.Log().Size() || good.Events != good.Size || len(good.Checkpoints) != 2 {
		b, err := json.Marshal(good)
		t.Fatalf("an untouched log: %s %v", b, err)
	}
	third := leafID(t, st, 3)
	change := func(from, to string) func(fhir.Ref, *fhir.Resource) error {
		return func(ref fhir.Ref, r *fhir.Resource) error {
			if ref.ID == third {
				r.JSON = []byte(strings.Replace(string(r.JSON), from, to, 1))
			}
			return nil
		}
	}
	swap := func(i uint64, own store.Leaf) store.Leaf {
		if i != 5 && i != 6 {
			return own
		}
		l, err := st.Log().Leaf(11 - i)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	for name, c := range map[string]struct {
		st   *tampered
		want string
	}{
		"patient changed": {&tampered{read: change("Patient/p1", "Patient/p2")}, ProblemChanged},
		"outcome changed": {&tampered{read: change(`"outcome":"0"`, `"outcome":"8"`)}, ProblemChanged},
		"a byte added":    {&tampered{read: change(`"agent":`, `"agent": `)}, ProblemChanged},
		"written twice":   {&tampered{read: change(`"versionId":"1"`, `"versionId":"2"`)}, ProblemChanged},
		"dropped": {&tampered{read: func(ref fhir.Ref,
			r *fhir.Resource) error {
			r.Deleted = ref.ID == third
			return nil
		}}, ProblemDropped},
		"added": {&tampered{rows: func() []string { return []string{"invented"} }}, ProblemAdded},
		"leaf changed": {&tampered{leaf: func(i uint64, l store.Leaf) store.Leaf { l[90] ^= 1; return l }},
			ProblemHash},
		"leaf recomputed": {&tampered{recompute: true,
			leaf: func(i uint64, l store.Leaf) store.Leaf { l[7] ^= byte(i); return l }}, ProblemForked},
		"malformed leaf": {&tampered{leaf: func(uint64, store.Leaf) store.Leaf { return store.Leaf("x") }},
			ProblemLeaf},
		"reordered":           {&tampered{leaf: swap}, ProblemHash},
		"reordered, rehashed": {&tampered{leaf: swap, recompute: true}, ProblemForked},
		"rolled back":         {&tampered{size: func(n uint64) uint64 { return n - 1 }}, ProblemRolledBack},
		"emptied":             {&tampered{size: func(uint64) uint64 { return 0 }}, ProblemRolledBack},
	} {
		c.st.Store = st
		rep, err := Verify(ctx, c.st, nt.Checkpoint(), opts)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		found := false
		for _, p := range rep.Problems {
			found = found || p.Class == c.want
		}
		if rep.OK || !found {
			t.Errorf("%s: want %s, got %+v", name, c.want, rep.Problems)
		}
	}
	forged := bytes.Replace(nt.Checkpoint(), []byte("\n"), []byte("\n1"), 1)
	if rep, err := Verify(ctx, st, forged, opts); err != nil || rep.OK || rep.Problems[0].Class != ProblemCheckpoint {
		t.Errorf("a forged checkpoint: %+v %v", rep, err)
	}
	// A recomputed log with a new checkpoint signed by the same key can only be
	// detected with the checkpoint that the auditor has kept.
	x := &tampered{Store: st, recompute: true, leaf: swap}
	resigned, err := OpenNotary(NotaryOptions{Store: x, Dir: t.TempDir(), Rand: rand.Reader, Accept: true})
	if err != nil {
		t.Fatal(err)
	}
	resigned.signer, resigned.vkey = nt.signer, nt.vkey
	if err := resigned.Sign(); err != nil {
		t.Fatal(err)
	}
	rep, err := Verify(ctx, x, resigned.Checkpoint(), VerifyOptions{Verifier: nt.Verifier()})
	if err != nil || !rep.OK {
		t.Errorf("without the auditor's checkpoint: %+v %v", rep.Problems, err)
	}
	rep, err = Verify(ctx, x, resigned.Checkpoint(), opts)
	if err != nil || rep.OK {
		t.Errorf("with the auditor's checkpoint: no problem found: %v", err)
	}
}

func TestVerifyWhileWriting(t *testing.T) {
	st, rec, nt, _ := logWorld(t, 50)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 50 {
			if err := rec.Record(context.Background(), Event{Type: Lifecycle, Interaction: "start"}); err != nil {
				t.Error(err)
			}
		}
	}()
	for range 5 {
		rep, err := Verify(context.Background(), st, nt.Checkpoint(), VerifyOptions{Verifier: nt.Verifier()})
		if err != nil || !rep.OK {
			t.Errorf("%+v %v", rep.Problems, err)
		}
	}
	<-done
}

func TestNotaryRejectsRollback(t *testing.T) {
	st, rec, nt, dir := logWorld(t, 10)
	again := func(s store.Store) error {
		_, err := OpenNotary(NotaryOptions{Store: s, Dir: dir, Rand: rand.Reader})
		return err
	}
	record(t, rec, 5)
	if err := again(st); err != nil {
		t.Fatalf("a log that grew: %v", err)
	}
	if err := nt.Sign(); err != nil {
		t.Fatal(err)
	}
	short := &tampered{Store: st, size: func(n uint64) uint64 { return n - 2 }}
	if err := again(short); fhir.KindOf(err) != fhir.Conflict {
		t.Errorf("a shorter log: %v", err)
	}
	fork := &tampered{Store: st, recompute: true, leaf: func(i uint64, l store.Leaf) store.Leaf { l[8] ^= 1; return l }}
	if err := again(fork); fhir.KindOf(err) != fhir.Conflict {
		t.Errorf("another log: %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, keyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v %v", info.Mode(), err)
	}
	path := filepath.Join(dir, checkpointFile)
	msg, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(msg, []byte("\n"), []byte("\n9"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := again(st); fhir.KindOf(err) != fhir.Conflict {
		t.Errorf("a forged checkpoint: %v", err)
	}
}

// TestNotaryRejectsLostCheckpoint checks that a log without its checkpoint or key is
// not treated as a new one, that an operator can accept it, and that an auditor's
// checkpoint remains valid.
func TestNotaryRejectsLostCheckpoint(t *testing.T) {
	for name, lose := range map[string][]string{
		"checkpoint": {checkpointFile}, "key": {keyFile}, "both": {checkpointFile, keyFile},
	} {
		st, rec, nt, dir := logWorld(t, 10)
		kept := nt.Checkpoint()
		for _, f := range lose {
			if err := os.Remove(filepath.Join(dir, f)); err != nil {
				t.Fatal(err)
			}
		}
		older := &tampered{Store: st, size: func(uint64) uint64 { return 4 }}
		if _, err := OpenNotary(NotaryOptions{Store: older, Dir: dir,
			Rand: rand.Reader}); fhir.KindOf(err) != fhir.Conflict ||
			!strings.Contains(err.Error(), "pulsegate recover audit-log") {
			t.Errorf("%s lost, older store: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(dir, checkpointFile)); err == nil && lose[0] == checkpointFile {
			t.Errorf("%s lost: a rejected start signed a checkpoint", name)
		}
		n, err := OpenNotary(NotaryOptions{Store: st, Dir: dir, Rand: rand.Reader, Accept: true})
		if err != nil || n.Accepted() == "" {
			t.Fatalf("%s lost, accepted: %v", name, err)
		}
		record(t, rec, 1)
		if err := n.Sign(); err != nil {
			t.Fatal(err)
		}
		again, err := OpenNotary(NotaryOptions{Store: st, Dir: dir, Rand: rand.Reader})
		if err != nil || again.Accepted() != "" {
			t.Errorf("%s lost, next start: %v", name, err)
		}
		rep, err := Verify(context.Background(), st, kept, VerifyOptions{Verifier: nt.Verifier()})
		if err != nil || !rep.OK {
			t.Errorf("%s lost: verification of the log: %+v %v", name, rep.Problems, err)
		}
	}
	// A key that others may read, and an empty store without its checkpoint.
	st, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	dir := t.TempDir()
	open := func() error {
		_, err := OpenNotary(NotaryOptions{Store: st, Dir: dir, Rand: rand.Reader})
		return err
	}
	if err := open(); err != nil {
		t.Fatal(err)
	}
	if err := open(); err != nil {
		t.Errorf("a second start before the first event: %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, keyFile), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := open(); err == nil {
		t.Error("a signing key that others may read was accepted")
	}
	if err := os.Chmod(filepath.Join(dir, keyFile), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, checkpointFile)); err != nil {
		t.Fatal(err)
	}
	if err := open(); fhir.KindOf(err) != fhir.Conflict {
		t.Errorf("an empty store: %v", err)
	}
}
