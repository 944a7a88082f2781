package pebblestore

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"strings"

	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

const (
	tabDoc    = 'D'
	tabCode   = 'P'
	tabID     = 'I'
	tabIndex  = 'X'
	tabChange = 'L'
	tabState  = 'S'
	tabExpire = 'E'
	tabLog    = 'M'
	tabMeta   = 'N'
	tabForm   = 'F'

	// Orders of their own.
	tabUpdated = 'U'
	tabTouched = 'V'
	tabDay     = 'W'

	// Types of M rows.
	logLeaves = 2
	logHashes = 3

	// Of the sample tier.
	tabSeries   = 'Q'
	tabOther    = 'R'
	tabIdentity = 'G'
	tabTag      = 'Y'
	tabTally    = 'K'
	tabHead     = 'H'
	tabBlock    = 'B'
)

// Buckets part the documents of a code by how long they last, so that a date
// range can be cut at both ends: a document of a bucket that ends after an
// instant began at most its slack before. Dense samples are instants; a night
// must not make their searches begin two days early.
const (
	bucketInstant = iota
	bucketHour
	bucketShort
	bucketLong
	bucketUndated
)

const maxValue = 200 // bytes of an X value written out

// slackOf is how long, in ms, a document of a bucket lasts at most; ok is
// false when nothing bounds it.
func slackOf(bucket byte) (ms int64, ok bool) {
	switch bucket {
	case bucketInstant:
		return 60 * 1000, true
	case bucketHour:
		return 3600 * 1000, true
	case bucketShort:
		return 48 * 3600 * 1000, true
	}
	return 0, false
}

// appendStr appends s escaped and terminated.
func appendStr(b []byte, s string) []byte {
	for {
		i := strings.IndexByte(s, 0)
		if i < 0 {
			break
		}
		b = append(b, s[:i]...)
		b = append(b, 0, 0xff)
		s = s[i+1:]
	}
	b = append(b, s...)
	return append(b, 0, 1)
}

// takeStr reads one string; ok is false on a malformed key.
func takeStr(b []byte) (s string, rest []byte, ok bool) {
	var esc []byte
	start := 0
	for i := 0; i+1 < len(b); i++ {
		if b[i] != 0 {
			continue
		}
		switch b[i+1] {
		case 1:
			if esc == nil {
				return string(b[start:i]), b[i+2:], true
			}
			return string(append(esc, b[start:i]...)), b[i+2:], true
		case 0xff:
			esc = append(esc, b[start:i]...)
			esc = append(esc, 0)
			i++
			start = i + 1
		default:
			return "", nil, false
		}
	}
	return "", nil, false
}

// next is the least key greater than every key with prefix p.
func next(p []byte) []byte {
	out := append([]byte(nil), p...)
	for i := len(out) - 1; i >= 0; i-- {
		if out[i] < 0xff {
			out[i]++
			return out[:i+1]
		}
	}
	return nil
}

func appendU64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }

func sortable(ms int64) uint64     { return uint64(ms) ^ 1<<63 }
func unsortable(u uint64) int64    { return int64(u ^ 1<<63) }
func inverse(t store.Seq) uint64   { return ^uint64(t) }
func uninverse(u uint64) store.Seq { return store.Seq(^u) }

// codeHash is the cluster of a code; the empty code has cluster zero.
func codeHash(code string) (h [8]byte) {
	if code == "" {
		return h
	}
	s := sha256.Sum256([]byte(code))
	copy(h[:], s[:])
	return h
}

// place is where the rows of a version are, besides type, id and T.
type place struct {
	patient string
	code    [8]byte
	bucket  byte
	start   int64
}

// placeOf says where a document with values v belongs.
func placeOf(v *search.Values) place {
	p := place{patient: v.Patient, start: v.Start}
	_, code, _ := strings.Cut(v.Code, "|")
	p.code = codeHash(code)
	switch {
	case v.Start == 0 && v.End == 0:
		p.bucket = bucketUndated
	case v.End == math.MaxInt64 || v.Start == math.MinInt64:
		p.bucket = bucketLong
	default:
		p.bucket = bucketInstant
		for p.bucket < bucketLong {
			if ms, _ := slackOf(p.bucket); v.End-v.Start <= ms {
				break
			}
			p.bucket++
		}
	}
	return p
}

func (p *place) append(b []byte) []byte {
	b = appendStr(b, p.patient)
	b = append(b, p.code[:]...)
	b = append(b, p.bucket)
	return appendU64(b, sortable(p.start))
}

func takePlace(b []byte) (p place, rest []byte, ok bool) {
	if p.patient, b, ok = takeStr(b); !ok || len(b) < 17 {
		return p, nil, false
	}
	copy(p.code[:], b)
	p.bucket = b[8]
	p.start = unsortable(binary.BigEndian.Uint64(b[9:]))
	return p, b[17:], true
}

// clusterKey is the prefix of all documents of a type of a patient.
func clusterKey(table byte, patient, typ string) []byte {
	b := append(make([]byte, 0, 64), table)
	return appendStr(appendStr(b, patient), typ)
}

// rowKey is a D or P key.
func rowKey(table byte, p *place, code [8]byte, typ, id string, t store.Seq) []byte {
	b := append(make([]byte, 0, 160), table)
	b = appendStr(appendStr(b, p.patient), typ)
	b = append(b, code[:]...)
	b = append(b, p.bucket)
	b = appendU64(b, sortable(p.start))
	return appendU64(appendStr(b, id), uint64(t))
}

// row is a parsed D or P key.
type row struct {
	place
	typ, id string
	t       store.Seq
}

func parseRow(k []byte) (r row, ok bool) {
	if len(k) == 0 {
		return r, false
	}
	k = k[1:]
	if r.patient, k, ok = takeStr(k); !ok {
		return r, false
	}
	if r.typ, k, ok = takeStr(k); !ok {
		return r, false
	}
	return r, r.tail(k)
}

// tail reads what follows patient and type.
func (r *row) tail(k []byte) bool {
	if len(k) < 17 {
		return false
	}
	copy(r.code[:], k)
	r.bucket = k[8]
	r.start = unsortable(binary.BigEndian.Uint64(k[9:]))
	id, k, ok := takeStr(k[17:])
	if !ok || len(k) != 8 {
		return false
	}
	r.id, r.t = id, store.Seq(binary.BigEndian.Uint64(k))
	return true
}

func idPrefix(typ, id string) []byte {
	b := append(make([]byte, 0, 100), tabID)
	return appendStr(appendStr(b, typ), id)
}

func idKey(typ, id string, t store.Seq) []byte { return appendU64(idPrefix(typ, id), inverse(t)) }

func indexPrefix(typ, param, value string) []byte {
	b := append(make([]byte, 0, 200), tabIndex)
	b = appendStr(appendStr(b, typ), param)
	return appendStr(b, clip(value))
}

// clip bounds the value in a key.
func clip(v string) string {
	if len(v) <= maxValue {
		return v
	}
	h := sha256.Sum256([]byte(v))
	return "\x02" + string(h[:])
}

func changeKey(t store.Seq, n uint32) []byte {
	b := appendU64([]byte{tabChange}, uint64(t))
	return binary.BigEndian.AppendUint32(b, n)
}

func stateKey(k string) []byte { return append([]byte{tabState}, k...) }

func expireKey(ms int64, k string) []byte {
	return append(appendU64([]byte{tabExpire}, uint64(ms)), k...)
}

func leavesKey(i uint64) []byte { return appendU64([]byte{tabLog, logLeaves}, i) }
func hashesKey(i int64) []byte  { return appendU64([]byte{tabLog, logHashes}, uint64(i)) }

func formKey(id [16]byte) []byte { return append([]byte{tabForm}, id[:]...) }

var (
	schemaKey = []byte("Nschema")
	headKey   = []byte("Nhead")
)

// seriesKey is a Q or R row: the series of a patient under a code, in the
// order of the D or P rows that their samples stand for.
func seriesKey(table byte, p *place, code [8]byte, id series.SeriesID) []byte {
	b := clusterKey(table, p.patient, "Observation")
	b = append(b, code[:]...)
	b = append(b, p.bucket)
	return append(b, id[:]...)
}

func identityKey(id series.Identity) []byte { return append([]byte{tabIdentity}, id[:]...) }

func memberKey(id series.Identity, s series.SeriesID) []byte {
	return append(identityKey(id), s[:]...)
}

func tagPrefix(param, value string) []byte {
	b := append(make([]byte, 0, 200), tabTag)
	return appendStr(appendStr(b, param), clip(value))
}

func tallyKey(s series.SeriesID) []byte { return append([]byte{tabTally}, s[:]...) }

// blockKey is an H or B key. Level 0 holds what commits wrote, by commit;
// the levels above hold blocks that do not overlap, by their first sample.
func blockKey(table byte, s series.SeriesID, level byte, major uint64, minor uint32) []byte {
	b := append(make([]byte, 0, 22), table)
	b = append(b, s[:]...)
	b = append(b, level)
	b = appendU64(b, major)
	return binary.BigEndian.AppendUint32(b, minor)
}

func levelPrefix(table byte, s series.SeriesID, level byte) []byte {
	return append(append([]byte{table}, s[:]...), level)
}

// typeUpdates is the prefix of the U rows of a type.
func typeUpdates(typ string) []byte {
	return appendStr(append(make([]byte, 0, 40), tabUpdated), typ)
}

// patientUpdates is the prefix of the V rows of a patient and type.
func patientUpdates(patient, typ string) []byte { return clusterKey(tabTouched, patient, typ) }

// updatesKey completes a U or V prefix.
func updatesKey(prefix []byte, t store.Seq, n uint32) []byte {
	return binary.BigEndian.AppendUint32(appendU64(slices.Clone(prefix), uint64(t)), n)
}

const bucketTail = 8 + 1 // code and bucket behind patient and type

// splitRow parts a row's key behind the bucket; ok is false when it is shorter.
func splitRow(k []byte) (pre, tail []byte, ok bool) {
	_, rest, ok := takeStr(k[1:])
	if !ok {
		return nil, nil, false
	}
	if _, rest, ok = takeStr(rest); !ok || len(rest) < bucketTail {
		return nil, nil, false
	}
	n := len(k) - len(rest) + bucketTail
	return k[:n], k[n:], true
}

// dateParam is the parameter whose value is the start in a type's D keys, for
// types of patients with one clinical time.
func dateParam(typ string) string {
	switch typ {
	case "Observation", "Consent", "AuditEvent":
		return "date"
	case "Provenance":
		return "recorded"
	}
	return ""
}
