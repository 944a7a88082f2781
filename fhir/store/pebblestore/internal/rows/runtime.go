package rows

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
)

// IndexPrefix begins the keys of small state that says which index rows a store has.
const IndexPrefix = "index/"

// BuiltinIndex is the state key of the index of the parameters of R4. RuntimeIndexes
// begins the keys of those of the parameters defined at run time.
const (
	BuiltinIndex   = IndexPrefix + "r4"
	RuntimeIndexes = IndexPrefix + "param/"
)

// BuiltinVersion is the version of the index rows that EachIndexPrefix makes. It is
// raised when the rows of a document change, so that they are built again. Version 2 added
// the rows of Late parameters.
const BuiltinVersion = 2

// Index is the state of an index: which rows it has, and how far they are built.
type Index struct {
	// Version is the version of the rows of R4's parameters.
	Version int `json:"version,omitempty"`
	// Type, URL and Param name a parameter defined at run time. Param is its ParamKey.
	Type  string `json:"type,omitempty"`
	URL   string `json:"url,omitempty"`
	Param string `json:"param,omitempty"`
	// Cursor is the D key after which the rows of documents are built next. Documents
	// that were written after the state have their rows already.
	Cursor []byte `json:"cursor,omitempty"`
	// Documents is the number of versions whose rows were built.
	Documents uint64 `json:"documents"`
	// Done is set if every version of every document has its rows.
	Done bool `json:"done,omitempty"`
	// Stale is set if a process wrote documents without the rows of the parameter. They
	// are built again from the start.
	Stale bool `json:"stale,omitempty"`
	// Dropping is set while the rows are being removed. Documents get no more of them.
	Dropping bool `json:"dropping,omitempty"`
}

// Encode returns the value of the state key.
func (x *Index) Encode() []byte {
	b, _ := json.Marshal(x) // its types cannot fail to encode
	return b
}

// DecodeIndex decodes the value of a state key. A nil value is no index.
func DecodeIndex(v []byte) (*Index, error) {
	if v == nil {
		return nil, nil
	}
	var x Index
	if json.Unmarshal(v, &x) != nil {
		return nil, fault.ErrRow
	}
	return &x, nil
}

// Complete reports whether every document has the rows of R4's parameters.
func (x *Index) Complete() bool { return x != nil && x.Done && x.Version == BuiltinVersion }

// Runtime reports whether a parameter was defined at run time.
func Runtime(p *search.Param) bool { return p.Defined() }

// ParamKey returns the name of a parameter in X keys. That of a parameter defined at run
// time depends on its URL and on all that its values depend on, so that another
// definition has other rows.
func ParamKey(p *search.Param) string {
	if !Runtime(p) {
		return p.Code
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %d %q", p.URL, p.Code, p.Type, fmt.Sprint(p.Paths))
	if p.Expression != nil {
		fmt.Fprintf(h, " %q", p.Expression.String())
	}
	return "+" + hex.EncodeToString(h.Sum(nil)[:12])
}

// RuntimeKey returns the state key of the index of a parameter defined at run time.
func RuntimeKey(typ, param string) string { return RuntimeIndexes + typ + "/" + param }

// RuntimeParams returns the parameters of a registry that were defined at run time and
// have rows, by type. Observations and AuditEvents are searched without such rows.
func RuntimeParams(r *search.Registry) map[string][]*search.Param {
	if r == nil || r == search.Builtin() {
		return nil
	}
	out := map[string][]*search.Param{}
	for _, typ := range fhir.Types {
		if !Generic(typ) {
			continue
		}
		for _, p := range r.Params(typ) {
			if Runtime(p) && (Indexed(p) || Ordered(p)) {
				out[typ] = append(out[typ], p)
			}
		}
	}
	return out
}

// State reads the value of a state key, or nil.
func State(r pebble.Reader, key string) ([]byte, error) {
	v, err := Get(r, keys.StateKey(key))
	if err != nil || v == nil {
		return nil, err
	}
	if len(v) < 8 {
		return nil, fault.ErrRow
	}
	return v[8:], nil
}

// Catalog says which index rows the documents of a store have.
type Catalog struct {
	Builtin *Index
	// Runtime holds the indexes of parameters defined at run time, by state key.
	Runtime map[string]*Index
	// params holds the parameters that the process knows, by state key.
	params   map[string]*search.Param
	registry *search.Registry
}

// ReadCatalog reads the state of the indexes. params are the RuntimeParams of r.
func ReadCatalog(rd pebble.Reader, r *search.Registry, params map[string][]*search.Param) (c *Catalog, err error) {
	c = &Catalog{Runtime: map[string]*Index{}, params: map[string]*search.Param{}, registry: r}
	for typ, ps := range params {
		for _, p := range ps {
			c.params[RuntimeKey(typ, ParamKey(p))] = p
		}
	}
	pre := keys.StateKey(IndexPrefix)
	it, err := rd.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return nil, err
	}
	defer fault.Close(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		if len(it.Value()) < 8 {
			return nil, fault.ErrRow
		}
		if err := c.Set(string(it.Key()[1:]), it.Value()[8:]); err != nil {
			return nil, err
		}
	}
	return c, it.Error()
}

// Set takes the value of a state key, and ignores keys that are not of an index. A nil
// value removes the index.
func (c *Catalog) Set(key string, v []byte) error {
	if !strings.HasPrefix(key, IndexPrefix) {
		return nil
	}
	x, err := DecodeIndex(v)
	if err != nil {
		return err
	}
	switch {
	case key == BuiltinIndex:
		c.Builtin = x
	case !strings.HasPrefix(key, RuntimeIndexes):
	case x == nil:
		delete(c.Runtime, key)
	default:
		c.Runtime[key] = x
	}
	return nil
}

// Written returns the parameters defined at run time whose rows the documents of a type
// get, and the state keys of the indexes whose parameters the process does not know.
func (c *Catalog) Written(typ string) (known []*search.Param, unknown []string) {
	for key, x := range c.Runtime {
		if x.Type != typ || x.Dropping {
			continue
		}
		if p := c.params[key]; p != nil {
			known = append(known, p)
		} else {
			unknown = append(unknown, key)
		}
	}
	slices.SortFunc(known, func(a, b *search.Param) int { return strings.Compare(a.URL, b.URL) })
	slices.Sort(unknown)
	return known, unknown
}

// Values extracts the values of some parameters from a document. One that cannot be read
// has none.
func (c *Catalog) Values(typ string, ps []*search.Param, body []byte) *search.Values {
	q := search.Query{Type: typ, Registry: c.registry}
	for _, p := range ps {
		q.Clauses = append(q.Clauses, search.Clause{Param: p})
	}
	sel, err := search.Select(&q)
	if err != nil {
		return &search.Values{}
	}
	v, err := search.Extractor{Registry: c.registry}.ExtractFor(sel, body)
	if err != nil {
		return &search.Values{}
	}
	return v
}

// EachRuntime calls fn with the prefix of every X row of a document under the parameters
// ps, which were defined at run time.
func (c *Catalog) EachRuntime(typ string, ps []*search.Param, body []byte, fn func(prefix []byte)) {
	if len(ps) == 0 {
		return
	}
	v := c.Values(typ, ps, body)
	for _, p := range ps {
		EachRow(p, v.ByParam[p.Code], fn)
	}
}

// EachWanted calls fn with the prefix of every X row that a document must have. v holds
// its values under the parameters of R4.
func (c *Catalog) EachWanted(typ string, v *search.Values, body []byte, fn func(prefix []byte)) {
	EachIndexPrefix(typ, v, c.Builtin.Complete(), fn)
	var done []*search.Param
	for key, x := range c.Runtime {
		if p := c.params[key]; p != nil && x.Type == typ && x.Done && !x.Dropping {
			done = append(done, p)
		}
	}
	c.EachRuntime(typ, done, body, fn)
}

// May reports whether a document may have an X row with this prefix. It does not judge
// the rows of parameters that the process does not know, or whose rows are being removed.
func (c *Catalog) May(typ string, v *search.Values, body, prefix []byte) bool {
	rest := prefix[len(keys.IndexRows(typ, ""))-2:]
	param, _, ok := keys.CutString(rest)
	if !ok {
		return false
	}
	found := false
	match := func(p []byte) { found = found || bytes.Equal(p, prefix) }
	if !strings.HasPrefix(param, "+") {
		EachIndexPrefix(typ, v, true, match)
		return found
	}
	x := c.Runtime[RuntimeKey(typ, param)]
	if x == nil {
		return false
	}
	p := c.params[RuntimeKey(typ, param)]
	if p == nil || x.Dropping {
		return true
	}
	c.EachRuntime(typ, []*search.Param{p}, body, match)
	return found
}
