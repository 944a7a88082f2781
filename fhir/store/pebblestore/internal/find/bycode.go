package find

import (
	"bytes"
	"slices"
	"strings"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
)

// byCode finds the documents of some codes of every patient. It seeks to the
// cluster of each code inside each patient's, first as the primary code (D), then
// among the other codings (P). A document with two wanted codes is emitted where it
// is met first.
func (f *finder) byCode(codes [][8]byte, after []byte) error {
	codes = slices.Clone(codes)
	slices.SortFunc(codes, func(a, b [8]byte) int { return bytes.Compare(a[:], b[:]) })
	table := byte(keys.TableDocument)
	var from []byte
	if len(after) > 0 {
		if after[0] != posCode || len(after) < 2 || after[1] != keys.TableDocument && after[1] != keys.TableCode {
			return errPos(f.op)
		}
		table, from = after[1], append(slices.Clone(after[1:]), 0)
	}
	more, err := true, error(nil)
	if table == keys.TableDocument {
		if more, err = f.skipScan(keys.TableDocument, codes, from); err != nil || !more {
			return err
		}
		from = nil
	}
	_, err = f.skipScan(keys.TableCode, codes, from)
	return err
}

// skipScan walks one table. The position is the key.
func (f *finder) skipScan(tab byte, codes [][8]byte, from []byte) (more bool, err error) {
	lower, upper := []byte{tab}, []byte{tab + 1}
	if from != nil {
		lower = from
	}
	it, err := f.openTable(tab, lower, upper)
	if err != nil {
		return false, err
	}
	defer fault.Close(it, &err)
	patients := patientsOf(f.query)
	var cluster, run []byte // the patient's, and the code's within it
	var r keys.Row
	for ok := it.First(); ok; {
		if err := f.step(); err != nil {
			return false, err
		}
		k := it.Key()
		if run != nil && bytes.HasPrefix(k, run) {
			if !r.ParseTail(k[len(cluster):]) {
				return false, fault.ErrRow
			}
			if more, err := f.offerRow(tab, codes, k, r, it); err != nil || !more {
				return false, err
			}
			ok = it.Next()
			continue
		}
		if cluster == nil || !bytes.HasPrefix(k, cluster) {
			p, rest, good := keys.CutString(k[1:])
			if !good {
				return false, fault.ErrRow
			}
			t, _, good := keys.CutString(rest)
			if !good {
				return false, fault.ErrRow
			}
			run = nil
			if c := strings.Compare(t, f.query.Type); c < 0 {
				ok = it.SeekGE(keys.Cluster(tab, p, f.query.Type))
				continue
			} else if c > 0 {
				ok = it.SeekGE(keys.PrefixEnd(keys.AppendString([]byte{tab}, p)))
				continue
			}
			if patients != nil {
				i, found := slices.BinarySearch(patients, p)
				if i == len(patients) {
					return true, nil
				}
				if !found {
					ok = it.SeekGE(keys.Cluster(tab, patients[i], t))
					continue
				}
			}
			cluster = keys.Cluster(tab, p, t)
			r.Patient, r.Type = p, t
		}
		// Find the least wanted code at or after the code of k.
		have := k[len(cluster):]
		if len(have) < 8 {
			return false, fault.ErrRow
		}
		i, _ := slices.BinarySearchFunc(codes, have[:8],
			func(c [8]byte, h []byte) int { return bytes.Compare(c[:], h) })
		if i == len(codes) {
			ok = it.SeekGE(keys.PrefixEnd(cluster))
			continue
		}
		if run = append(append(run[:0], cluster...), codes[i][:]...); !bytes.HasPrefix(k, run) {
			ok = it.SeekGE(run)
		}
	}
	return true, it.Error()
}

// offerRow emits the row of a wanted code if it matches.
func (f *finder) offerRow(tab byte, codes [][8]byte, key []byte, r keys.Row, t *table) (more bool, err error) {
	var m *snapshot.Match
	if ser, s := t.sampled(); ser != nil {
		if tab == keys.TableCode && (slices.Contains(codes, ser.Code) || least(ser.OtherCodes, codes) != r.Code) {
			return true, nil
		}
		m = snapshot.NewSample(ser, &s)
	} else if tab == keys.TableDocument {
		if m, err = f.met(r, t); err != nil || m == nil {
			return true, err
		}
	} else {
		val := t.Value()
		if !rows.Visible(val, r.Seq, f.at) {
			return true, nil
		}
		met := r.Code
		if copy(r.Code[:], val[8:]) != 8 {
			return false, fault.ErrRow
		}
		if slices.Contains(codes, r.Code) {
			return true, nil // the scan of D has emitted it
		}
		if m, err = f.snap.FetchRow(r); err != nil {
			return false, err
		}
		if f.firstOther(m, codes) != met {
			return true, nil
		}
	}
	return !f.accept(m) || f.emit(m, append([]byte{posCode}, key...)), nil
}

// firstOther returns the least of the wanted codes under which m has a P row, where
// a scan meets it first.
func (f *finder) firstOther(m *snapshot.Match, codes [][8]byte) (none [8]byte) {
	// The query has a code clause, so that the selection includes the code.
	v, err := search.Extractor{}.ExtractFor(f.sel, m.Document.JSON)
	if err != nil {
		return none
	}
	return least(rows.OtherCodes(m.Row.Type, v, m.Row.Code), codes)
}

// least returns the first of the sorted codes that is among others, or zero.
func least(others, codes [][8]byte) (none [8]byte) {
	for _, c := range codes {
		if slices.Contains(others, c) {
			return c
		}
	}
	return none
}
