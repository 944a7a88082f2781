package ingest

// Keys and key prefixes of the state that ingest keeps in the store. IDs are
// those of Observations or Devices, STREAM is a mapping.StreamID and SOURCE a
// hash of the name of a source.
const (
	// keyIDSecret holds the secret of Key.
	keyIDSecret = "ingest/key"
)
