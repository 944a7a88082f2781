package pebblestore

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

const secret = "zanaria" // occurs in names, telecoms and identifiers

// logText is a log that tests read.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }
func (l *logText) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// damagedStore is a store in which one byte of a table file was flipped.
type damagedStore struct {
	t    *testing.T
	fs   *vfs.MemFS
	d    *DB
	log  *logText
	file string // name of the damaged file
}

func patientWrite(i int) store.Write {
	id := fmt.Sprintf("p%03d", i)
	return store.Write{Resource: fhir.Resource{Type: "Patient", ID: id, JSON: []byte(fhir.Prefix("Patient", id) +
		fmt.Sprintf(`},"identifier":[{"system":"urn:mrn","value":"%s-%d"}],"name":[{"family":"%s%d"}],"telecom":[{"system":"email","value":"%s%d@example.org"}],"gender":"other"}`, secret, i, secret, i, secret, i))}}
}

const damagedPatients = 400

// newDamaged returns a store whose rows lie in table files, in one level or in
// several, and flips a byte at the given fraction of the largest file. A negative
// fraction flips none.
func newDamaged(t *testing.T, part float64, layers bool) *damagedStore {
	t.Helper()
	s := &damagedStore{t: t, fs: vfs.NewMem(), log: &logText{}}
	s.open()
	fill := func(from, to int) {
		for i := from; i < to; i++ {
			n := 0
			b := store.Batch{Writes: []store.Write{patientWrite(i)},
				Leaves: []store.Leaf{store.Leaf(fmt.Sprint("leaf ", i))}}
			for n = range 6 {
				p := &population{}
				w := p.document(fmt.Sprintf("p%03d", i), n)
				b.Writes = append(b.Writes, w)
			}
			if _, err := s.d.Commit(context.Background(), &b); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(0, damagedPatients)
	fillSamples(t, s.d)
	if err := s.d.Compact(context.Background()); err != nil {
		t.Fatal(err)
	}
	if layers {
		for i := 0; i < damagedPatients; i += 3 {
			if _, err := s.d.Commit(context.Background(),
				&store.Batch{Writes: []store.Write{patientWrite(i)}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.d.pdb.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	s.close()
	if part >= 0 {
		s.flip(part)
	}
	s.open()
	return s
}

func fillSamples(t *testing.T, d *DB) { fill(t, d, 2, 2, 1500) }

func (s *damagedStore) open() {
	s.t.Helper()
	d, err := Open("s", Options{FS: s.fs, Logger: slog.New(slog.NewTextHandler(s.log, nil)), CacheBytes: 1 << 20})
	if err != nil {
		s.t.Fatal(err)
	}
	s.d = d
}

func (s *damagedStore) close() {
	s.t.Helper()
	if err := s.d.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// flip changes one byte of the largest table file.
func (s *damagedStore) flip(part float64) {
	s.t.Helper()
	names, err := s.fs.List("s")
	if err != nil {
		s.t.Fatal(err)
	}
	var body []byte
	for _, n := range names {
		if !strings.HasSuffix(n, ".sst") {
			continue
		}
		f, err := s.fs.Open("s/" + n)
		if err != nil {
			s.t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if err != nil {
			s.t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			s.t.Fatal(err)
		}
		if len(b) > len(body) {
			s.file, body = n, b
		}
	}
	body[int(part*float64(len(body)))] ^= 0x40
	f, err := s.fs.Create("s/"+s.file, "test")
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := f.Write(body); err != nil {
		s.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// readAll reads everything a server reads, and counts successes and failures.
func (s *damagedStore) readAll() (good, bad int) {
	s.t.Helper()
	ctx := context.Background()
	did := func(err error) {
		if err == nil {
			good++
			return
		}
		bad++
		if fhir.KindOf(err) != fhir.Unavailable || strings.Contains(err.Error(), secret) ||
			!strings.Contains(err.Error(), "damaged") {
			s.t.Errorf("an error of a damaged block: kind %d: %v", fhir.KindOf(err), err)
		}
	}
	for i := range damagedPatients {
		id := fmt.Sprintf("p%03d", i)
		_, _, err := s.d.Read(ctx, fhir.Ref{Type: "Patient", ID: id}, 0)
		did(err)
		for _, raw := range []string{"Patient?identifier=" + fmt.Sprintf("%s-%d", secret, i),
			"Observation?patient=" + id + "&_sort=-date", "Observation?_lastUpdated=lt2100&patient=" + id} {
			typ, params, _ := strings.Cut(raw, "?")
			pairs, _ := search.Pairs(params)
			q, err := search.Parse(typ, pairs, search.ParseOptions{})
			if err != nil {
				s.t.Fatal(err)
			}
			did(s.d.Find(ctx, store.Find{Query: q, Filter: allOf(typ)}, func(*store.Found) bool { return true }))
		}
	}
	for typ := range map[string]bool{"Observation": true, "Patient": true} {
		did(s.d.Scan(ctx, store.ScanRange{Types: []string{typ}, Filter: allOf(typ)},
			func(*store.Found) bool { return true }))
	}
	did(s.d.Changes(ctx, 0, func(*store.Change) bool { return true }))
	_, err := s.d.Log().Root(s.d.Log().Size())
	did(err)
	return good, bad
}

// TestDamagedByte flips one byte in a table file. Only reads of its block may fail;
// the store must continue, name the file in the log, and disclose nothing of the
// block's contents.
func TestDamagedByte(t *testing.T) {
	rnd := rand.New(rand.NewPCG(23, 1))
	hit, lost := 0, 0
	for i := range 10 {
		part := (float64(i) + rnd.Float64()) / 10
		s := newDamaged(t, part, i%2 == 0)
		good, bad := s.readAll()
		if good == 0 {
			t.Errorf("byte at %.3f: nothing can be read", part)
		}
		hit += min(bad, 1)
		// Writes continue, except those that need the block.
		wrote := 0
		for i := range 40 {
			w := patientWrite(damagedPatients + i)
			_, err := s.d.Commit(context.Background(),
				&store.Batch{Writes: []store.Write{w},
					State: []store.StateWrite{{Key: fmt.Sprint("k", i), Value: []byte("v"),
						Expires: time.Now().Add(-time.Hour)}}})
			if err == nil {
				wrote++
			} else if fhir.KindOf(err) != fhir.Unavailable || strings.Contains(err.Error(), secret) {
				t.Errorf("a write: %v", err)
			}
		}
		if wrote == 0 || s.d.failed.Load() {
			t.Errorf("byte at %.3f: %d of 40 writes, stopped: %v", part, wrote, s.d.failed.Load())
		}
		var problems []string
		if err := s.d.Check(context.Background(), func(p string) { problems = append(problems, p) }); err != nil {
			t.Errorf("check ended at a damaged block: %v", err)
		}
		found := slices.ContainsFunc(problems,
			func(p string) bool { return strings.Contains(p, s.file) && strings.HasPrefix(p, "table ") })
		if found {
			lost++
		}
		if bad > 0 && !found {
			t.Errorf("byte at %.3f: %d reads failed, and check named no file: %.300v", part, bad, problems)
		}
		if out := s.log.String() + fmt.Sprint(problems); strings.Contains(out, secret) {
			t.Errorf("the log or check tells what is stored: %.600s", out)
		}
		if bad > 0 && !strings.Contains(s.log.String(), "file="+s.file) || bad > 0 && s.d.damage.total == 0 {
			t.Errorf("byte at %.3f: the log does not name the file %s: %.600s", part, s.file, s.log.String())
		}
		s.close()
	}
	if hit < 3 || lost < 5 { // the index rows of names, which readAll does not read, are among the blocks
		t.Errorf("of 10 flipped bytes %d failed a read, %d were found", hit, lost)
	}
}

// content returns the newest version of every resource, by id.
func content(t *testing.T, d *DB, among map[string]string) map[string]string {
	t.Helper()
	out := map[string]string{}
	if among == nil {
		for _, typ := range []string{"Patient", "Observation"} {
			err := d.Scan(context.Background(), store.ScanRange{Types: []string{typ}, Filter: allOf(typ)},
				func(f *store.Found) bool {
					out[f.Resource.Type+"/"+f.Resource.ID] = string(f.Resource.JSON)
					return true
				})
			if err != nil {
				t.Fatal(err)
			}
		}
		return out
	}
	for key := range among {
		ref, _ := fhir.ParseRef(key)
		if r, _, err := d.Read(context.Background(), ref, 0); err == nil {
			out[key] = string(r.JSON)
		}
	}
	return out
}

// TestSalvage checks that everything readable in a damaged store is in the new one,
// under every order, that losses are reported, and that no older version takes the
// place of a lost one.
func TestSalvage(t *testing.T) {
	rnd := rand.New(rand.NewPCG(24, 1))
	something := 0
	for i := range 12 {
		part := (float64(i) + rnd.Float64()) / 12
		s := newDamaged(t, -1, false)
		if i%2 == 0 { // two layers, and resources with two versions
			for i := 0; i < damagedPatients; i += 3 {
				w := patientWrite(i)
				w.Resource.JSON = bytes.Replace(w.Resource.JSON, []byte("other"), []byte("female"), 1)
				if _, err := s.d.Commit(context.Background(), &store.Batch{Writes: []store.Write{w}}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := s.d.Compact(context.Background()); err != nil {
			t.Fatal(err)
		}
		original := content(t, s.d, nil)
		s.close()
		s.flip(part)
		out, err := Salvage(context.Background(), "s", "new",
			Options{FS: s.fs, Logger: slog.New(slog.NewTextHandler(s.log, nil))})
		if err != nil {
			t.Fatalf("byte at %.3f: %v", part, err)
		}
		d, err := Open("new", Options{FS: s.fs})
		if err != nil {
			t.Fatal(err)
		}
		lost := map[string]bool{}
		for _, l := range out.Lost {
			lost[l.Type+"/"+l.ID] = l.Versions == 0
		}
		saved, scanned := content(t, d, original), content(t, d, nil)
		missing := 0
		for key, body := range original {
			switch {
			case saved[key] == body && scanned[key] == body:
			case saved[key] != "" || scanned[key] != "":
				t.Errorf("byte at %.3f: %s is another than it was", part, key)
			case !lost[key] && out.LostBlocks == 0 && out.LostSeries == 0:
				t.Errorf("byte at %.3f: %s is lost, but not reported", part, key)
			default:
				missing++
			}
		}
		if len(saved) == 0 || missing > len(original)*9/10 {
			t.Errorf("byte at %.3f: %d of %d are lost", part, missing, len(original))
		}
		if !out.Complete() {
			something++
		}
		for _, p := range out.Problems { // nothing can repair these
			if !strings.Contains(p, "log: ") && !strings.Contains(p, " follows ") &&
				!strings.Contains(p, "oldest version") {
				t.Errorf("byte at %.3f: in the new store: %s", part, p)
			}
		}
		if strings.Contains(s.log.String()+out.String(), secret) {
			t.Error("the log or the report tells what is stored")
		}
		ids, _, _ := (&population{t: t, d: d}).find("Patient?_sort=-_lastUpdated", 0, "", 0)
		n := 0
		for key := range scanned {
			n += strings.Count(key, "Patient/")
		}
		if len(ids) != n {
			t.Errorf("byte at %.3f: %d patients by lastUpdated, %d there", part, len(ids), n)
		}
		if _, err := d.Commit(context.Background(),
			&store.Batch{Writes: []store.Write{patientWrite(7777)}}); err != nil {
			t.Errorf("byte at %.3f: the new store takes no write: %v", part, err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := Salvage(context.Background(), "s", "new", Options{FS: s.fs}); fhir.KindOf(err) != fhir.Conflict {
			t.Errorf("a salvage over a store: %v", err)
		}
	}
	if something < 6 {
		t.Errorf("of 12 flipped bytes %d lost something", something)
	}
}
