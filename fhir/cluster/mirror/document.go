package mirror

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"go.mongodb.org/mongo-driver/v2/bson"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// maxDocument bounds a document in bytes. MongoDB's bound is 16 MiB.
const maxDocument = 15 << 20

// Names of members that the mirror adds.
const (
	memberCommit  = "_commit"
	memberTime    = "_time"
	memberDeleted = "_deletedAt"
	memberOmitted = "_omitted"
)

// document returns the document of a resource as of a commit.
func document(r *fhir.Resource, at store.Seq) (bson.D, error) {
	body, err := object(r.JSON)
	if err != nil {
		return nil, err
	}
	d := bson.D{{Key: "_id", Value: r.ID}, {Key: memberCommit, Value: int64(at)}}
	if r.Type == "Observation" {
		if t, ok := effective(r.JSON); ok {
			d = append(d, bson.E{Key: memberTime, Value: t})
		}
	}
	d = append(d, body...)
	if raw, err := bson.Marshal(d); err != nil || len(raw) > maxDocument {
		return bson.D{{Key: "_id", Value: r.ID}, {Key: memberCommit, Value: int64(at)},
			{Key: "resourceType", Value: r.Type}, {Key: memberOmitted, Value: true}}, nil
	}
	return d, nil
}

// tombstone returns what is left of a deleted resource. It keeps a late write of an
// earlier commit from bringing the resource back.
func tombstone(id string, at store.Seq, now time.Time) bson.D {
	return bson.D{{Key: "_id", Value: id}, {Key: memberCommit, Value: int64(at)}, {Key: memberDeleted, Value: now}}
}

// effective returns the effective time of an Observation. An open end is left out.
func effective(body []byte) (bson.D, bool) {
	v, err := search.Extract("Observation", body)
	if err != nil || len(v.ByParam["date"]) == 0 {
		return nil, false
	}
	x := v.ByParam["date"][0]
	var d bson.D
	for _, t := range []struct {
		name string
		ms   int64
	}{{"start", x.Lo}, {"end", x.Hi - 1}} {
		// Years that a date of MongoDB cannot hold belong to open ends.
		if y := time.UnixMilli(t.ms).UTC().Year(); y > 0 && y < 10000 {
			d = append(d, bson.E{Key: t.name, Value: time.UnixMilli(t.ms).UTC()})
		}
	}
	return d, len(d) > 0
}

// object converts a JSON object.
func object(body []byte) (bson.D, error) {
	dec := jsontext.NewDecoder(strings.NewReader(string(body)))
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	return members(dec)
}

// members converts the rest of an object whose brace was read.
func members(dec *jsontext.Decoder) (d bson.D, err error) {
	d = bson.D{}
	for dec.PeekKind() != jsontext.KindEndObject {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, err
		}
		key := name.String()
		v, err := value(dec)
		if err != nil {
			return nil, err
		}
		d = append(d, bson.E{Key: key, Value: v})
	}
	_, err = dec.ReadToken()
	return d, err
}

func value(dec *jsontext.Decoder) (any, error) {
	t, err := dec.ReadToken()
	if err != nil {
		return nil, err
	}
	switch t.Kind() {
	case jsontext.KindBeginObject:
		return members(dec)
	case jsontext.KindBeginArray:
		a := bson.A{}
		for dec.PeekKind() != jsontext.KindEndArray {
			v, err := value(dec)
			if err != nil {
				return nil, err
			}
			a = append(a, v)
		}
		_, err := dec.ReadToken()
		return a, err
	case jsontext.KindNumber:
		return number(t.String())
	case jsontext.KindString:
		return t.String(), nil
	case jsontext.KindTrue, jsontext.KindFalse:
		return t.Kind() == jsontext.KindTrue, nil
	}
	return nil, nil
}

// number returns an integer if the text has neither a fraction nor an exponent and
// fits, and a double otherwise.
func number(text string) (any, error) {
	n := json.Number(text)
	if !strings.ContainsAny(text, ".eE") {
		if i, err := n.Int64(); err == nil {
			return i, nil
		}
	}
	return n.Float64()
}
