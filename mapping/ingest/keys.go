package ingest

import (
	"crypto/sha256"
	"encoding/hex"
)

// Keys and key prefixes of the state that ingest keeps in the store. IDs are
// those of Observations or Devices, STREAM is a mapping.StreamID and SOURCE a
// hash of the name of a source.
const (
	// keyIDSecret holds the secret of Key.
	keyIDSecret = "ingest/key"
)

const (
	prefixDevice   = "ingest/device/"
	prefixRevision = "ingest/revision/"
)

// roomOpen holds, for items with a vendor's id, PATIENT/SUBJECT/ITEM, so that
// they can be found when the thing they were about becomes readable.
const prefixOpen = "ingest/open/"

// roomNight holds, by patient, vendor and source, what is known of the nights
// of one source: sourceNights as JSON.
const prefixNight = "ingest/night/"

const prefixQuarantine = "quarantine/"

const (
	// roomChannels holds, by patient and vendor, which kinds of channels have
	// delivered: channels as JSON.
	prefixChannels = "ingest/channels/"
	// roomSame holds, for the id of an Observation that is stored under
	// another one, that other id.
	prefixSame = "ingest/same/"
	// roomSource holds, as PATIENT/VENDOR/ID, the sources of a stream and of a
	// Device: hashes, one after another.
	prefixSource = "ingest/source/"
	// roomHeard marks, as TARGET/STREAM, that a Provenance says of a stream
	// or an Observation that another stream confirmed it.
	prefixConfirmed = "ingest/heard/"
)

// sourceHash is a source's name as it can stand in an id.
func sourceHash(source string) string {
	h := sha256.Sum256([]byte(source))
	return hex.EncodeToString(h[:8])
}
