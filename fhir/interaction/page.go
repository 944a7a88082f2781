package interaction

import (
	"strconv"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// Page is a Bundle ready to be sent. It contains the stored bytes of the resources
// without parsing them.
type Page struct {
	done    [][]byte // complete entries, before those in entries
	entries []byte
	count   int
	head    []byte
}

// size returns the size of the entries in bytes.
func (p *Page) size() int {
	n := len(p.entries)
	for _, b := range p.done {
		n += len(b)
	}
	return n
}

// large is the size in bytes from which a part of an answer is not copied into the
// Bundle.
const large = 16 << 10

// appendPart appends a part of an entry.
func (p *Page) appendPart(b []byte) {
	if len(b) < large {
		p.entries = append(p.entries, b...)
		return
	}
	p.done = append(p.done, p.entries, b)
	p.entries = nil
}

// Parts returns the Bundle's bytes in order.
func (p *Page) Parts() [][]byte {
	if p.count == 0 {
		return [][]byte{p.head, []byte("}")}
	}
	parts := append([][]byte{p.head, []byte(`,"entry":[`)}, p.done...)
	return append(parts, p.entries, []byte("]}"))
}

// Bytes returns the Bundle's bytes in one slice.
func (p *Page) Bytes() []byte {
	var out []byte
	for _, b := range p.Parts() {
		out = append(out, b...)
	}
	return out
}

// link is one Bundle.link.
type link struct{ relation, url string }

// open writes the head. If total is negative, it is omitted.
func (p *Page) open(id, typ string, updated time.Time, total int64, links []link) {
	b := append(p.head, `{"resourceType":"Bundle","id":"`...)
	b = append(b, id...)
	b = append(b, `","meta":{"lastUpdated":"`...)
	b = updated.UTC().AppendFormat(b, fhir.InstantLayout)
	b = append(b, `"},"type":"`...)
	b = append(b, typ...)
	b = append(b, '"')
	if total >= 0 {
		b = append(b, `,"total":`...)
		b = strconv.AppendInt(b, total, 10)
	}
	for i, l := range links {
		if i == 0 {
			b = append(b, `,"link":[`...)
		} else {
			b = append(b, ',')
		}
		b = append(b, `{"relation":"`...)
		b = append(b, l.relation...)
		b = append(b, `","url":`...)
		b = element.AppendString(b, l.url)
		b = append(b, '}')
	}
	if len(links) > 0 {
		b = append(b, ']')
	}
	p.head = b
}

func (p *Page) begin(fullURL string) {
	if p.count++; p.count > 1 {
		p.entries = append(p.entries, ',')
	}
	p.entries = append(p.entries, `{"fullUrl":`...)
	p.entries = element.AppendString(p.entries, fullURL)
}

// match adds a search result; mode is "match", "include" or "outcome".
func (p *Page) match(fullURL string, resource []byte, mode string) {
	p.begin(fullURL)
	p.entries = append(p.entries, `,"resource":`...)
	p.entries = append(p.entries, resource...)
	p.entries = append(p.entries, `,"search":{"mode":"`...)
	p.entries = append(p.entries, mode...)
	p.entries = append(p.entries, `"}}`...)
}

// version adds an entry of a history.
func (p *Page) version(fullURL string, r *fhir.Resource) {
	p.begin(fullURL)
	method, status, target := "PUT", "200 OK", r.Type+"/"+r.ID
	switch {
	case r.Deleted:
		method, status = "DELETE", "204 No Content"
	case r.Version == 1:
		method, status = "PUT", "201 Created"
	}
	if !r.Deleted {
		p.entries = append(p.entries, `,"resource":`...)
		p.entries = append(p.entries, r.JSON...)
	}
	p.entries = append(p.entries, `,"request":{"method":"`+method+`","url":"`+target+`"},"response":{"status":"`+
		status+`","etag":`...)
	p.entries = element.AppendString(p.entries, ETag(r.Version))
	p.entries = append(p.entries, `,"lastModified":"`...)
	p.entries = r.LastUpdated.UTC().AppendFormat(p.entries, fhir.InstantLayout)
	p.entries = append(p.entries, `"}}`...)
}

// ETag returns the weak entity tag of a version.
func ETag(version uint64) string { return `W/"` + strconv.FormatUint(version, 10) + `"` }
