package mirror

import (
	"context"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"pulsegate/fhir/store"
)

// WriteLate writes a document as of the commit that it names.
func WriteLate(m *Mirror, collection, id string, d bson.D) error {
	var at int64
	for _, e := range d {
		if e.Key == memberCommit {
			at, _ = e.Value.(int64)
		}
	}
	return m.write(context.Background(), collection, []mongo.WriteModel{replace(id, store.Seq(at), d)})
}
