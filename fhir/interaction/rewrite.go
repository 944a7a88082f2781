package interaction

import (
	"bytes"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"pulsegate/fhir"
)

// rewriteReferences replaces Reference.reference values: one that is the
// fullUrl of an entry of the same transaction by what that entry became (ids),
// and one below base by the local reference it is. All other bytes stay as
// they are. In a transaction (ids is not nil) a urn:uuid or urn:oid that no
// entry has is refused; conditional references do not pass the door.
func rewriteReferences(body []byte, ids map[string]string, base string) ([]byte, error) {
	const op = "interaction.rewriteReferences"
	dec := jsontext.NewDecoder(bytes.NewReader(body))
	out := make([]byte, 0, len(body)+64)
	copied := 0
	reference := false // the last token was the name "reference"
	for {
		tok, err := dec.ReadToken()
		if err != nil {
			break // the end: the door has read these bytes before
		}
		kind, n := dec.StackIndex(dec.StackDepth())
		name := tok.Kind() == '"' && kind == '{' && n%2 == 1
		if name {
			reference = tok.String() == "reference"
			continue
		}
		if reference && tok.Kind() == '"' {
			v := tok.String()
			end := int(dec.InputOffset())
			to, ok := ids[v]
			if local, below := strings.CutPrefix(v, base+"/"); !ok && below {
				if _, isRef := fhir.ParseRef(local); isRef {
					to, ok = local, true
				}
			}
			switch {
			case ok:
				start := bytes.LastIndexByte(body[:end-1], '"')
				out = append(append(append(append(out, body[copied:start]...), '"'), to...), '"')
				copied = end
			case ids != nil && (strings.HasPrefix(v, "urn:uuid:") || strings.HasPrefix(v, "urn:oid:")):
				return nil, fhir.Errorf(fhir.Invalid, op, "a reference names a urn that is no entry's fullUrl")
			}
		}
		reference = false
	}
	return append(out, body[copied:]...), nil
}
