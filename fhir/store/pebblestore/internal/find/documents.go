package find

import (
	"bytes"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

func (f *finder) byID(ids []string, after []byte) error {
	from := ""
	if len(after) > 0 {
		if after[0] != posID {
			return errPos(f.op)
		}
		from = string(after[1:])
	}
	for _, id := range ids {
		if id <= from {
			continue
		}
		if err := f.step(); err != nil {
			return err
		}
		m, err := f.snap.Current(fhir.Ref{Type: f.query.Type, ID: id}, f.at)
		if err != nil {
			return err
		}
		if m == nil || f.documentsOnly && m.Series != nil {
			continue
		}
		if f.accept(m) && !f.emit(m, append([]byte{posID}, id...)) {
			return nil
		}
	}
	return nil
}

// afterRow returns the least key after a position in table D, or nil for the start.
func afterRow(op, after string) ([]byte, error) {
	if after == "" {
		return nil, nil
	}
	if len(after) < 2 || after[0] != posDoc || after[1] != keys.TableDocument {
		return nil, errPos(op)
	}
	return append([]byte(after[1:]), 0), nil
}

// documents walks table D: the cluster of one patient and type, or of every
// patient.
func (f *finder) documents(patient string, one bool, after []byte) error {
	from, err := afterRow(f.op, string(after))
	if err != nil {
		return err
	}
	return f.eachRow(patient, one, from, func(key []byte, r keys.Row, t *table) (bool, error) {
		m, err := f.met(r, t)
		if err != nil || m == nil || !f.accept(m) {
			return true, err
		}
		if f.passing {
			return f.emit(m, nil), nil
		}
		return f.emit(m, append([]byte{posDoc}, key...)), nil
	})
}

// met returns the match of a D row, or nil if the snapshot does not show it.
func (f *finder) met(r keys.Row, t *table) (*snapshot.Match, error) {
	if err := f.step(); err != nil {
		return nil, err
	}
	if ser, s := t.sampled(); ser != nil {
		return snapshot.NewSample(ser, &s), nil
	}
	val := t.Value()
	if !rows.Visible(val, r.Seq, f.at) {
		return nil, nil
	}
	d, err := f.snap.Templates.Document(f.snap.Reader, &f.recent, r.Type, r.ID, val)
	if err != nil {
		return nil, err
	}
	if !f.passing {
		return snapshot.NewMatch(r, d).Within(f.snap), nil
	}
	if f.reused == nil {
		f.reused = snapshot.NewMatch(r, d).Within(f.snap)
	}
	f.reused.Set(r, d)
	return f.reused, nil
}

// eachRow calls fn for the D rows of the type in key order, from a key on. One seek
// skips the other types of a patient.
func (f *finder) eachRow(patient string, one bool, from []byte,
	fn func(key []byte, r keys.Row, t *table) (bool, error)) (err error) {
	typ := f.query.Type
	lower, upper := []byte{keys.TableDocument}, []byte{keys.TableDocument + 1}
	if one {
		lower = keys.Cluster(keys.TableDocument, patient, typ)
		upper = keys.PrefixEnd(lower)
	}
	if from != nil && bytes.Compare(from, lower) > 0 {
		lower = from
	}
	if bytes.Compare(lower, upper) >= 0 {
		return nil
	}
	it, err := f.openTable(keys.TableDocument, lower, upper)
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	var cluster []byte
	var r keys.Row
	ok := it.First()
	for ok {
		k := it.Key()
		if cluster == nil || !bytes.HasPrefix(k, cluster) {
			p, rest, good := keys.CutString(k[1:])
			if !good {
				return fault.ErrRow
			}
			t, _, good := keys.CutString(rest)
			if !good {
				return fault.ErrRow
			}
			if c := strings.Compare(t, typ); c < 0 {
				ok = it.SeekGE(keys.Cluster(keys.TableDocument, p, typ))
				continue
			} else if c > 0 {
				ok = it.SeekGE(keys.PrefixEnd(keys.AppendString([]byte{keys.TableDocument}, p)))
				continue
			}
			cluster = keys.Cluster(keys.TableDocument, p, typ)
			r.Patient, r.Type = p, t
		}
		if !it.onSample && !r.ParseTail(k[len(cluster):]) {
			return fault.ErrRow
		}
		more, err := fn(k, r, it)
		if err != nil || !more {
			return err
		}
		ok = it.Next()
	}
	return it.Error()
}

// reread reads a match that was met before.
func (f *finder) reread(r keys.Row, ser *tier.Series, s *series.Sample) (*snapshot.Match, error) {
	if ser != nil {
		return snapshot.NewSample(ser, s), nil
	}
	return f.snap.FetchRow(r)
}

// visibleRow reads a document. It returns nil if the snapshot does not show it.
func (f *finder) visibleRow(r keys.Row) (*snapshot.Match, error) {
	m, err := f.snap.FetchRow(r)
	if err != nil || r.Seq > f.at || m.Document.EndSeq != 0 && m.Document.EndSeq <= f.at {
		return nil, err
	}
	return m, nil
}
