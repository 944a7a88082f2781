package ingest

import (
	"crypto/sha256"
	"encoding/hex"
)

// Keys and key prefixes of the state that ingest keeps in the store. ID is the id
// of an Observation or Device, STREAM a mapping.StreamID, and SOURCE the
// sourceHash of a source.
const (
	// keyIDSecret holds the secret of Key.
	keyIDSecret = "ingest/key"
	// prefixDevice/ID holds the mapping.DeviceFacts of a Device as JSON.
	prefixDevice = "ingest/device/"
	// prefixRevision/ID holds the greatest sample.Sample.Revision of an
	// Observation as a decimal.
	prefixRevision = "ingest/revision/"
	// prefixNight/PATIENT/VENDOR/SOURCE holds the sourceNights of a source as
	// JSON.
	prefixNight = "ingest/night/"
	// prefixQuarantine/PATIENT/ITEM holds an Item as JSON.
	prefixQuarantine = "quarantine/"
	// prefixOpen/PATIENT/SUBJECT/ITEM marks an Item with a vendor's id, so that it
	// is found when a later payload resolves its subjectID.
	prefixOpen = "ingest/open/"
	// prefixChannels/PATIENT/VENDOR holds the channels of a vendor as JSON.
	prefixChannels = "ingest/channels/"
	// prefixSame/ID holds the id, and the vendor's id, under which an Observation
	// with another id is stored.
	prefixSame = "ingest/same/"
	// prefixSource/PATIENT/VENDOR/ID holds the sourceHashes of a stream or a
	// Device, one after another.
	prefixSource = "ingest/source/"
	// prefixConfirmed/TARGET/STREAM marks that a Provenance has recorded that
	// STREAM confirms the stream or Observation TARGET.
	prefixConfirmed = "ingest/heard/"
	// prefixSample/PATIENT/VENDOR/ID holds the Kept of an Observation as JSON, or a list
	// of them.
	prefixSample = "ingest/sample/"
	// prefixExemplar/PATIENT/VENDOR/STREAM/HASH holds a keptExemplar as JSON. HASH is
	// one of the value.
	prefixExemplar = "ingest/exemplar/"
	// prefixErasure/PATIENT/VENDOR holds the erasureMark of a patient and vendor as JSON.
	prefixErasure = "erasure/"
	// prefixPart/HASH holds the partMark of a part as JSON.
	prefixPart = "ingest/part/"
)

// sourceHash returns a hash of the name of a source for keys and ids.
func sourceHash(source string) string {
	h := sha256.Sum256([]byte(source))
	return hex.EncodeToString(h[:8])
}
