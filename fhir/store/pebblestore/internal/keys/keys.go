package keys

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
	TableDocument = 'D'
	TableCode     = 'P'
	TableID       = 'I'
	TableIndex    = 'X'
	TableChange   = 'L'
	TableState    = 'S'
	TableExpiry   = 'E'
	TableLog      = 'M'
	TableMeta     = 'N'
	TableTemplate = 'F'

	// Orders of documents.
	TableUpdate        = 'U'
	TablePatientUpdate = 'V'
	TableDay           = 'W'

	// Types of M rows. They are stored.
	LogLeaves = 2
	LogHashes = 3

	// The sample tier.
	TableSeries      = 'Q'
	TableOtherSeries = 'R'
	TableIdentity    = 'G'
	TableTag         = 'Y'
	TableTally       = 'K'
	TableHeader      = 'H'
	TableBlock       = 'B'
)

// Buckets divide the documents of a code by duration, so that a date range bounds
// the keys at both ends: a document that ends after an instant began at most the
// slack of its bucket earlier. Dense samples are instants; a night among them must
// not make their searches begin two days early.
const (
	BucketInstant = iota
	bucketHour
	bucketShort
	BucketLong
	BucketUndated
)

const maxValue = 200 // bytes of the value in an X key

// Slack returns the longest duration in milliseconds of the documents in a bucket.
// It reports false if the bucket has no bound.
func Slack(bucket byte) (ms int64, ok bool) {
	switch bucket {
	case BucketInstant:
		return 60 * 1000, true
	case bucketHour:
		return 3600 * 1000, true
	case bucketShort:
		return 48 * 3600 * 1000, true
	}
	return 0, false
}

// AppendString appends s, escaped and terminated.
func AppendString(b []byte, s string) []byte {
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

// CutString decodes one string and returns the rest of the key. It reports false if
// the key is malformed.
func CutString(b []byte) (s string, rest []byte, ok bool) {
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

// PrefixEnd returns the least key greater than every key with prefix p.
func PrefixEnd(p []byte) []byte {
	out := append([]byte(nil), p...)
	for i := len(out) - 1; i >= 0; i-- {
		if out[i] < 0xff {
			out[i]++
			return out[:i+1]
		}
	}
	return nil
}

// AppendUint64 appends v, big-endian.
func AppendUint64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }

// Sortable maps ms so that the order of the keys is that of the signed values.
func Sortable(ms int64) uint64 { return uint64(ms) ^ 1<<63 }

// Unsortable is the inverse of Sortable.
func Unsortable(u uint64) int64 { return int64(u ^ 1<<63) }

// inverse maps seq so that the newest commit comes first.
func inverse(seq store.Seq) uint64 { return ^uint64(seq) }

// Uninverse is the inverse of Inverse.
func Uninverse(u uint64) store.Seq { return store.Seq(^u) }

// CodeHash returns the cluster of a code. The empty code has cluster zero.
func CodeHash(code string) (h [8]byte) {
	if code == "" {
		return h
	}
	s := sha256.Sum256([]byte(code))
	copy(h[:], s[:])
	return h
}

// Location says where the rows of a version lie. Together with type, id and Seq it
// gives the D key.
type Location struct {
	Patient string
	Code    [8]byte
	Bucket  byte
	Start   int64
}

// LocationOf returns the location of a document with values v.
func LocationOf(v *search.Values) Location {
	p := Location{Patient: v.Patient, Start: v.Start}
	_, code, _ := strings.Cut(v.Code, "|")
	p.Code = CodeHash(code)
	switch {
	case v.Start == 0 && v.End == 0:
		p.Bucket = BucketUndated
	case v.End == math.MaxInt64 || v.Start == math.MinInt64:
		p.Bucket = BucketLong
	default:
		p.Bucket = BucketInstant
		for p.Bucket < BucketLong {
			if ms, _ := Slack(p.Bucket); v.End-v.Start <= ms {
				break
			}
			p.Bucket++
		}
	}
	return p
}

func (p *Location) Append(b []byte) []byte {
	b = AppendString(b, p.Patient)
	b = append(b, p.Code[:]...)
	b = append(b, p.Bucket)
	return AppendUint64(b, Sortable(p.Start))
}

// CutLocation decodes a location and returns the rest. It reports false if b is
// malformed.
func CutLocation(b []byte) (p Location, rest []byte, ok bool) {
	if p.Patient, b, ok = CutString(b); !ok || len(b) < 17 {
		return p, nil, false
	}
	copy(p.Code[:], b)
	p.Bucket = b[8]
	p.Start = Unsortable(binary.BigEndian.Uint64(b[9:]))
	return p, b[17:], true
}

// Cluster returns the prefix of all documents of a type and patient in a table.
func Cluster(table byte, patient, typ string) []byte {
	b := append(make([]byte, 0, 64), table)
	return AppendString(AppendString(b, patient), typ)
}

// RowKey returns a D or P key.
func RowKey(table byte, p *Location, code [8]byte, typ, id string, seq store.Seq) []byte {
	b := append(make([]byte, 0, 160), table)
	b = AppendString(AppendString(b, p.Patient), typ)
	b = append(b, code[:]...)
	b = append(b, p.Bucket)
	b = AppendUint64(b, Sortable(p.Start))
	return AppendUint64(AppendString(b, id), uint64(seq))
}

// Row is a parsed D or P key.
type Row struct {
	Location
	Type, ID string
	Seq      store.Seq
}

// ParseRow parses a D or P key. It reports false if the key is malformed.
func ParseRow(k []byte) (r Row, ok bool) {
	if len(k) == 0 {
		return r, false
	}
	k = k[1:]
	if r.Patient, k, ok = CutString(k); !ok {
		return r, false
	}
	if r.Type, k, ok = CutString(k); !ok {
		return r, false
	}
	return r, r.ParseTail(k)
}

// ParseTail parses the part of the key after patient and type.
func (r *Row) ParseTail(k []byte) bool {
	if len(k) < 17 {
		return false
	}
	copy(r.Code[:], k)
	r.Bucket = k[8]
	r.Start = Unsortable(binary.BigEndian.Uint64(k[9:]))
	id, k, ok := CutString(k[17:])
	if !ok || len(k) != 8 {
		return false
	}
	r.ID, r.Seq = id, store.Seq(binary.BigEndian.Uint64(k))
	return true
}

// IDPrefix returns the prefix of the I rows of a resource.
func IDPrefix(typ, id string) []byte {
	b := append(make([]byte, 0, 100), TableID)
	return AppendString(AppendString(b, typ), id)
}

// IDKey returns the key of the I row of a version.
func IDKey(typ, id string, seq store.Seq) []byte {
	return AppendUint64(IDPrefix(typ, id), inverse(seq))
}

// IndexRows returns the prefix of the X rows of a parameter.
func IndexRows(typ, param string) []byte {
	b := append(make([]byte, 0, 200), TableIndex)
	return AppendString(AppendString(b, typ), param)
}

// IndexPrefix returns the prefix of the X rows of a value.
func IndexPrefix(typ, param, value string) []byte {
	return AppendString(IndexRows(typ, param), clip(value))
}

// IndexStart returns the prefix of the X rows of the values that begin with start.
// Values that are replaced by their hash are not among them, see HashedRows.
func IndexStart(typ, param, start string) []byte {
	b := AppendString(IndexRows(typ, param), start)
	return b[:len(b)-2]
}

// HashedRows returns the prefix of the X rows of the values that are replaced by their
// hash.
func HashedRows(typ, param string) []byte { return IndexStart(typ, param, hashed) }

// CutIndex returns the part of an X key after the value. It reports false if the key is
// malformed.
func CutIndex(k []byte) (rest []byte, ok bool) {
	if len(k) == 0 {
		return nil, false
	}
	rest = k[1:]
	for range 3 {
		if rest, ok = cutEscaped(rest); !ok {
			return nil, false
		}
	}
	return rest, true
}

// cutEscaped skips one string.
func cutEscaped(b []byte) (rest []byte, ok bool) {
	for i := 0; i+1 < len(b); i++ {
		if b[i] == 0 {
			if b[i+1] == 1 {
				return b[i+2:], true
			}
			i++
		}
	}
	return nil, false
}

// MaxValue is the length in bytes of the longest value that is not replaced by its hash.
const MaxValue = maxValue

const hashed = "\x02" // begins the hash of a value

// clip bounds the length of a value in a key.
func clip(v string) string {
	if len(v) <= maxValue {
		return v
	}
	h := sha256.Sum256([]byte(v))
	return hashed + string(h[:])
}

// ChangeKey returns the key of the n-th L row of a commit.
func ChangeKey(seq store.Seq, n uint32) []byte {
	b := AppendUint64([]byte{TableChange}, uint64(seq))
	return binary.BigEndian.AppendUint32(b, n)
}

// StateKey returns the key of the S row of a state key.
func StateKey(k string) []byte { return append([]byte{TableState}, k...) }

// ExpiryKey returns the key of the E row of a state key that expires at ms.
func ExpiryKey(ms int64, k string) []byte {
	return append(AppendUint64([]byte{TableExpiry}, uint64(ms)), k...)
}

// LeavesKey returns the key of the M row of leaves that starts at leaf i.
func LeavesKey(i uint64) []byte { return AppendUint64([]byte{TableLog, LogLeaves}, i) }

// HashesKey returns the key of the M row of hashes that starts at stored hash i.
func HashesKey(i int64) []byte { return AppendUint64([]byte{TableLog, LogHashes}, uint64(i)) }

// TemplateKey returns the key of the F row of a template.
func TemplateKey(id [16]byte) []byte { return append([]byte{TableTemplate}, id[:]...) }

var (
	Schema   = []byte("Nschema")
	Head     = []byte("Nhead")
	Position = []byte("Nlog")
)

// SeriesKey returns a Q or R key: the series of a patient under a code, in the
// order of the D or P rows for which their samples stand.
func SeriesKey(table byte, p *Location, code [8]byte, id series.SeriesID) []byte {
	b := Cluster(table, p.Patient, "Observation")
	b = append(b, code[:]...)
	b = append(b, p.Bucket)
	return append(b, id[:]...)
}

// IdentityKey returns the key of the G row of an identity.
func IdentityKey(id series.Identity) []byte { return append([]byte{TableIdentity}, id[:]...) }

// MemberKey returns the key of the G row of a series of an identity.
func MemberKey(id series.Identity, s series.SeriesID) []byte {
	return append(IdentityKey(id), s[:]...)
}

// TagPrefix returns the prefix of the Y rows of a value.
func TagPrefix(param, value string) []byte {
	b := append(make([]byte, 0, 200), TableTag)
	return AppendString(AppendString(b, param), clip(value))
}

// TallyKey returns the key of the K row of a series.
func TallyKey(s series.SeriesID) []byte { return append([]byte{TableTally}, s[:]...) }

// BlockKey returns an H or B key. At level 0, major is the commit that wrote the
// block; the blocks of level 1 do not overlap, and major is the start of their
// first sample.
func BlockKey(table byte, s series.SeriesID, level byte, major uint64, minor uint32) []byte {
	b := append(make([]byte, 0, 22), table)
	b = append(b, s[:]...)
	b = append(b, level)
	b = AppendUint64(b, major)
	return binary.BigEndian.AppendUint32(b, minor)
}

// LevelPrefix returns the prefix of the H or B rows of a level.
func LevelPrefix(table byte, s series.SeriesID, level byte) []byte {
	return append(append([]byte{table}, s[:]...), level)
}

// TypeUpdates returns the prefix of the U rows of a type.
func TypeUpdates(typ string) []byte {
	return AppendString(append(make([]byte, 0, 40), TableUpdate), typ)
}

// PatientUpdates returns the prefix of the V rows of a patient and type.
func PatientUpdates(patient, typ string) []byte { return Cluster(TablePatientUpdate, patient, typ) }

// UpdateKey completes a U or V prefix.
func UpdateKey(prefix []byte, seq store.Seq, n uint32) []byte {
	return binary.BigEndian.AppendUint32(AppendUint64(slices.Clone(prefix), uint64(seq)), n)
}

const CodeBucketLen = 8 + 1 // bytes of code and bucket, after patient and type

// SplitRow splits a D or P key after the bucket. It reports false if the key is
// shorter.
func SplitRow(k []byte) (pre, tail []byte, ok bool) {
	_, rest, ok := CutString(k[1:])
	if !ok {
		return nil, nil, false
	}
	if _, rest, ok = CutString(rest); !ok || len(rest) < CodeBucketLen {
		return nil, nil, false
	}
	n := len(k) - len(rest) + CodeBucketLen
	return k[:n], k[n:], true
}

// DateParam returns the search parameter whose value is the start in a type's D
// keys, for types of patients with one clinical time. It returns "" for other
// types.
func DateParam(typ string) string {
	switch typ {
	case "Observation", "Consent", "AuditEvent":
		return "date"
	case "Provenance":
		return "recorded"
	}
	return ""
}
