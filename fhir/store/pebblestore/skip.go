package pebblestore

import (
	"bytes"
	"slices"
	"strings"

	"pulsegate/fhir/search"
)

// byCode finds the documents of some codes of every patient: it seeks to each
// code's cluster inside each patient's, first where it is the primary code (D),
// then among the other codings (P). A document with two wanted codes is given
// out where it is met first.
func (x *finder) byCode(codes [][8]byte, after []byte) error {
	codes = slices.Clone(codes)
	slices.SortFunc(codes, func(a, b [8]byte) int { return bytes.Compare(a[:], b[:]) })
	table := byte(tabDoc)
	var from []byte
	if len(after) > 0 {
		if after[0] != posCode || len(after) < 2 || after[1] != tabDoc && after[1] != tabCode {
			return errPos(x.op)
		}
		table, from = after[1], append(slices.Clone(after[1:]), 0)
	}
	more, err := true, error(nil)
	if table == tabDoc {
		if more, err = x.skipScan(tabDoc, codes, from); err != nil || !more {
			return err
		}
		from = nil
	}
	_, err = x.skipScan(tabCode, codes, from)
	return err
}

// skipScan walks one table. The position is the key.
func (x *finder) skipScan(tab byte, codes [][8]byte, from []byte) (more bool, err error) {
	lower, upper := []byte{tab}, []byte{tab + 1}
	if from != nil {
		lower = from
	}
	it, err := x.openTable(tab, lower, upper)
	if err != nil {
		return false, err
	}
	defer closing(it, &err)
	var cluster, run []byte // the patient's; the code's in it
	var r row
	for ok := it.First(); ok; {
		if err := x.step(); err != nil {
			return false, err
		}
		k := it.Key()
		if run != nil && bytes.HasPrefix(k, run) {
			if !r.tail(k[len(cluster):]) {
				return false, errRow
			}
			if more, err := x.offerRow(tab, codes, k, r, it); err != nil || !more {
				return false, err
			}
			ok = it.Next()
			continue
		}
		if cluster == nil || !bytes.HasPrefix(k, cluster) {
			p, rest, good := takeStr(k[1:])
			if !good {
				return false, errRow
			}
			t, _, good := takeStr(rest)
			if !good {
				return false, errRow
			}
			run = nil
			if c := strings.Compare(t, x.q.Type); c < 0 {
				ok = it.SeekGE(clusterKey(tab, p, x.q.Type))
				continue
			} else if c > 0 {
				ok = it.SeekGE(next(appendStr([]byte{tab}, p)))
				continue
			}
			cluster = clusterKey(tab, p, t)
			r.patient, r.typ = p, t
		}
		// The least wanted code at or behind the one that k is in.
		have := k[len(cluster):]
		if len(have) < 8 {
			return false, errRow
		}
		i, _ := slices.BinarySearchFunc(codes, have[:8],
			func(c [8]byte, h []byte) int { return bytes.Compare(c[:], h) })
		if i == len(codes) {
			ok = it.SeekGE(next(cluster))
			continue
		}
		if run = append(append(run[:0], cluster...), codes[i][:]...); !bytes.HasPrefix(k, run) {
			ok = it.SeekGE(run)
		}
	}
	return true, it.Error()
}

// offerRow looks at one row of a wanted code.
func (x *finder) offerRow(tab byte, codes [][8]byte, key []byte, r row, t *table) (more bool, err error) {
	var m *match
	if in, s := t.sampled(); in != nil {
		if tab == tabCode && (slices.Contains(codes, in.code) || least(in.others, codes) != r.code) {
			return true, nil
		}
		m = newSample(in, &s)
	} else if tab == tabDoc {
		if m, err = x.met(r, t); err != nil || m == nil {
			return true, err
		}
	} else {
		val := t.Value()
		if !visible(val, r.t, x.at) {
			return true, nil
		}
		met := r.code
		if copy(r.code[:], val[8:]) != 8 {
			return false, errRow
		}
		if slices.Contains(codes, r.code) {
			return true, nil // D had it
		}
		if m, err = x.v.fetchRow(r); err != nil {
			return false, err
		}
		if x.firstOther(m, codes) != met {
			return true, nil
		}
	}
	return !x.accept(m) || x.emit(m, append([]byte{posCode}, key...)), nil
}

// firstOther is the least of the wanted codes under which m has a P row: where
// a scan meets it first.
func (x *finder) firstOther(m *match, codes [][8]byte) (none [8]byte) {
	// The query has a code clause, so the selection has the code.
	v, err := search.Extractor{}.ExtractFor(x.sel, m.doc.json)
	if err != nil {
		return none
	}
	return least(otherCodes(m.row.typ, v, m.row.code), codes)
}

// least is the first of the sorted codes that is among others, else zero.
func least(others, codes [][8]byte) (none [8]byte) {
	for _, c := range codes {
		if slices.Contains(others, c) {
			return c
		}
	}
	return none
}
