package mongolog

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"

	"go.mongodb.org/mongo-driver/v2/bson"

	"pulsegate/fhir/store/sharedlog"
)

const (
	// maxInline bounds the rows of an entry document, and the size of a part.
	maxInline = 12 << 20
	// maxTouched bounds the guards and the node of an entry.
	maxTouched = 1 << 20
	// maxSmall bounds the guards and rows of an entry that a look returns whole.
	maxSmall = 16 << 10
)

// entryDoc is an entry as it is stored. Numbers without sign are stored as int64.
type entryDoc struct {
	ID      string    `bson:"_id"`
	Parent  []byte    `bson:"p"`
	Hash    []byte    `bson:"h"`
	Nonce   []byte    `bson:"n"`
	Epoch   int64     `bson:"e"`
	Schema  int64     `bson:"s"`
	Node    string    `bson:"w"`
	First   int64     `bson:"t"`
	Count   int64     `bson:"c"`
	Touched []string  `bson:"k,omitempty"`
	Rows    []byte    `bson:"b,omitempty"`
	IsLarge bool      `bson:"x,omitempty"`
	Large   *largeDoc `bson:"l,omitempty"`
}

// largeDoc holds the guards and the rows of a large entry. Either Rows or Parts
// is empty.
type largeDoc struct {
	Touched []string `bson:"k,omitempty"`
	Rows    []byte   `bson:"b,omitempty"`
	Parts   [][]byte `bson:"q,omitempty"` // SHA-256 of each part, in order
	Size    int64    `bson:"z"`           // bytes of the rows
}

// place returns the _id of an entry: its index as 16 hex digits.
func place(index uint64) string { return fmt.Sprintf("%016x", index) }

// index returns the index of a place.
func index(place string) (uint64, error) {
	n, err := strconv.ParseUint(place, 16, 64)
	if err != nil || len(place) != 16 {
		return 0, fmt.Errorf("mongolog: an entry has the invalid _id %.32q", place)
	}
	return n, nil
}

// pieces cuts rows into parts of a size.
func pieces(rows []byte, size int) (out [][]byte) {
	for len(rows) > size {
		out, rows = append(out, rows[:size]), rows[size:]
	}
	return append(out, rows)
}

// encode returns the document of e, and the parts that must be stored first, if the
// rows have more than inline bytes.
func encode(e *sharedlog.Entry, sum sharedlog.Hash, inline int) (*entryDoc, [][]byte, error) {
	head := len(e.Node)
	for _, t := range e.Touched {
		head += len(t) + 16 // the key of an array element, its type and its length
	}
	switch {
	case e.Index == 0 || e.Index > 1<<62:
		return nil, nil, fmt.Errorf("mongolog: an entry cannot have the place %d", e.Index)
	case len(e.Rows) > sharedlog.MaxRows:
		return nil, nil, fmt.Errorf("mongolog: rows of %d bytes, at most %d: %w", len(e.Rows), sharedlog.MaxRows,
			sharedlog.ErrTooLarge)
	case head > maxTouched:
		return nil, nil, fmt.Errorf("mongolog: guards of %d bytes, at most %d: %w", head, maxTouched,
			sharedlog.ErrTooLarge)
	}
	d := &entryDoc{
		ID: place(e.Index), Parent: e.Parent[:], Hash: sum[:], Nonce: e.Nonce[:],
		Epoch: int64(e.Epoch), Schema: int64(e.Schema), Node: e.Node, First: int64(e.First), Count: int64(e.Count),
	}
	if head+len(e.Rows) <= maxSmall {
		d.Touched, d.Rows = e.Touched, e.Rows
		return d, nil, nil
	}
	d.IsLarge, d.Large = true, &largeDoc{Touched: e.Touched, Size: int64(len(e.Rows))}
	if len(e.Rows) <= inline {
		d.Large.Rows = e.Rows
		return d, nil, nil
	}
	parts := pieces(e.Rows, inline)
	for _, p := range parts {
		h := sha256.Sum256(p)
		d.Large.Parts = append(d.Large.Parts, h[:])
	}
	return d, parts, nil
}

// decode returns the entry of a document whose large part, if any, has been
// brought in, and its hash. It fails if the hash is not the one that is stored.
func (d *entryDoc) decode() (*sharedlog.Entry, sharedlog.Hash, error) {
	n, err := index(d.ID)
	if err != nil {
		return nil, sharedlog.Hash{}, err
	}
	e := &sharedlog.Entry{
		Index: n, Epoch: uint64(d.Epoch), Schema: uint32(d.Schema), Node: d.Node,
		First: uint64(d.First), Count: uint64(d.Count), Touched: d.Touched, Rows: d.Rows,
	}
	if copy(e.Parent[:], d.Parent) != len(e.Parent) || copy(e.Nonce[:], d.Nonce) != len(e.Nonce) {
		return nil, sharedlog.Hash{}, fmt.Errorf("mongolog: entry %d is damaged: fields are missing", n)
	}
	sum := e.Sum()
	if stored, ok := toHash(d.Hash); !ok || stored != sum {
		return nil, sharedlog.Hash{}, fmt.Errorf("mongolog: entry %d is damaged: it does not have its hash", n)
	}
	return e, sum, nil
}

// toHash converts the bytes of a hash.
func toHash(b []byte) (h sharedlog.Hash, ok bool) {
	return h, copy(h[:], b) == len(h) && len(b) == len(h)
}

// errDamagedParts reports parts that do not make up the rows of their entry.
var errDamagedParts = errors.New("its parts are not those that it names")

// byID returns the filter for one document.
func byID(id string) bson.D { return bson.D{{Key: "_id", Value: id}} }

// between returns the filter for the documents whose _id is at least from and
// less than to.
func between(from, to string) bson.D {
	return bson.D{{Key: "_id", Value: bson.D{{Key: "$gte", Value: from}, {Key: "$lt", Value: to}}}}
}

// only returns a projection of the fields.
func only(fields ...string) bson.D { return projection(1, fields) }

// without returns a projection of all other fields.
func without(fields ...string) bson.D { return projection(0, fields) }

func projection(value int, fields []string) (d bson.D) {
	for _, f := range fields {
		d = append(d, bson.E{Key: f, Value: value})
	}
	return d
}
