package interaction

import (
	"context"
	"encoding/json"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/element"
	"pulsegate/fhir/store"
)

// metaChange is a Meta as an input of $meta-add and $meta-delete.
type metaChange struct {
	Profile  []string    `json:"profile"`
	Tag      []rawCoding `json:"tag"`
	Security []rawCoding `json:"security"`
}

const maxMetaChange = 100 // profiles, tags or security labels of one call

// Meta implements $meta of an instance (https://hl7.org/fhir/R4/resource-operation-meta.html):
// it returns a Parameters resource with the Meta of the current version. $meta of a type
// and of the system, which would read every resource, are not offered.
func (s *Service) Meta(ctx context.Context, rq *Request, ref fhir.Ref, ps []Parameter) ([]byte, error) {
	if len(ps) > 0 {
		return nil, s.refuse(ctx, rq, "read", ref, fhir.Errorf(fhir.Invalid, "interaction.Meta", "$meta takes no parameters"))
	}
	r, err := s.Read(ctx, rq, ref)
	if err != nil {
		return nil, err
	}
	return metaOf(r.JSON)
}

// metaOf returns the answer of the operations on Meta.
func metaOf(resource []byte) ([]byte, error) {
	var r struct {
		Meta json.RawMessage `json:"meta"`
	}
	if err := json.Unmarshal(resource, &r); err != nil {
		return nil, fhir.Wrap("interaction.Meta", err)
	}
	if r.Meta == nil {
		r.Meta = []byte("{}")
	}
	return append(append([]byte(`{"resourceType":"Parameters","parameter":[{"name":"return","valueMeta":`), r.Meta...), "}]}"...), nil
}

// MetaAdd implements $meta-add, and MetaDelete $meta-delete. They are updates that change
// only profiles, tags and security labels, under the permissions and checks of an update,
// so that no concurrent change is lost. A coding is the same if its system and code are. A
// call that changes nothing makes no new version.
func (s *Service) MetaAdd(ctx context.Context, rq *Request, ref fhir.Ref, ps []Parameter) ([]byte, error) {
	return s.changeMeta(ctx, rq, ref, ps, "$meta-add", addMeta)
}

// MetaDelete implements $meta-delete.
func (s *Service) MetaDelete(ctx context.Context, rq *Request, ref fhir.Ref, ps []Parameter) ([]byte, error) {
	return s.changeMeta(ctx, rq, ref, ps, "$meta-delete", deleteMeta)
}

func (s *Service) changeMeta(ctx context.Context, rq *Request, ref fhir.Ref, ps []Parameter, name string,
	change func(meta map[string]json.RawMessage, by *metaChange) error) ([]byte, error) {
	const op = "interaction.changeMeta"
	by, err := readMeta(ps, name)
	if err == nil {
		err = writable(rq, op, access.Update, ref.Type)
	}
	if err == nil && !fhir.ValidID(ref.ID) {
		err = errHidden(op)
	}
	var out []byte
	if err == nil {
		err = s.retry(ctx, func() (err error) {
			out, err = s.changeMetaOnce(ctx, rq, op, ref, by, change)
			return err
		})
	}
	if err != nil {
		return nil, s.refuse(ctx, rq, "update", ref, err)
	}
	return out, nil
}

func (s *Service) changeMetaOnce(ctx context.Context, rq *Request, op string, ref fhir.Ref, by *metaChange,
	change func(meta map[string]json.RawMessage, by *metaChange) error) ([]byte, error) {
	b := &store.Batch{Seen: s.Store.LastSeq()}
	old, err := s.current(ctx, ref)
	if err != nil {
		return nil, err
	}
	if old == nil {
		return nil, errHidden(op)
	}
	seen, err := visible(rq, op, access.Update, old)
	switch {
	case err != nil:
		return nil, err
	case !seen:
		return nil, concealing(errHidden(op), disclosedOf(old))
	case old.res.Deleted:
		return nil, disclosing(fhir.Errorf(fhir.Gone, op, "the resource was deleted"), disclosedOf(old))
	}
	next, changed, err := withMeta(old.res.JSON, by, change)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	if !changed {
		// The answer has the Meta, which an update without a change would not give out.
		if !rq.filter(access.Read).Allow(old.facts) {
			return emptyMeta, nil
		}
		ev := rq.event("read", ref.Type)
		ev.Data = []audit.DataRef{{Ref: ref, Version: old.res.Version}}
		rq.wait(len(old.res.JSON))
		if err := s.Audit.Record(ctx, perPatient(ev, old.facts.Patients())...); err != nil {
			return nil, err
		}
		return metaOf(old.res.JSON)
	}
	res, err := s.admit(op, ref, next, nil)
	if err != nil {
		return nil, disclosing(err, disclosedOf(old))
	}
	old.reconciled = true
	d, err := s.draftUpdate(ctx, rq, op, res, old, Preconditions{})
	if err != nil {
		return nil, err
	}
	w, err := s.write(ctx, rq, op, b, d, &disclosures{})
	if err != nil {
		return nil, err
	}
	if len(w.Resource.JSON) == 0 || !rq.filter(access.Read).Allow(old.facts) {
		return emptyMeta, nil
	}
	return metaOf(w.Resource.JSON)
}

// emptyMeta is the answer to a caller who may write the resource but not read it.
var emptyMeta = []byte(`{"resourceType":"Parameters","parameter":[]}`) // read only

// readMeta reads the parameter meta.
func readMeta(ps []Parameter, name string) (*metaChange, error) {
	const op = "interaction.changeMeta"
	if len(ps) != 1 || ps[0].Name != "meta" || ps[0].Meta == nil {
		return nil, fhir.Errorf(fhir.Invalid, op, "%s needs one parameter, meta, with a valueMeta", name)
	}
	m := &metaChange{}
	if json.Unmarshal(ps[0].Meta, m) != nil {
		return nil, fhir.Errorf(fhir.Invalid, op, "meta must be a Meta")
	}
	n := len(m.Profile) + len(m.Tag) + len(m.Security)
	if n == 0 || n > maxMetaChange {
		return nil, fhir.Errorf(fhir.Invalid, op, "meta must have 1 to %d profiles, tags and security labels", maxMetaChange)
	}
	return m, nil
}

// withMeta returns a resource with a changed Meta. All other bytes are kept.
func withMeta(resource []byte, by *metaChange, change func(map[string]json.RawMessage, *metaChange) error) (
	next []byte, changed bool, err error) {
	var r struct {
		Meta json.RawMessage `json:"meta"`
	}
	meta := map[string]json.RawMessage{}
	if err := json.Unmarshal(resource, &r); err != nil {
		return nil, false, err
	}
	if r.Meta != nil {
		if err := json.Unmarshal(r.Meta, &meta); err != nil {
			return nil, false, err
		}
	}
	before, err := json.Marshal(meta)
	if err != nil {
		return nil, false, err
	}
	if err := change(meta, by); err != nil {
		return nil, false, err
	}
	after, err := json.Marshal(meta)
	if err != nil || string(after) == string(before) {
		return nil, false, err
	}
	at := 0
	if r.Meta != nil {
		at = metaOffset(resource, r.Meta)
	}
	if at == 0 {
		return append([]byte(`{"meta":`+string(after)+`,`), resource[1:]...), true, nil
	}
	next = append(slices.Clone(resource[:at]), after...)
	return append(next, resource[at+len(r.Meta):]...), true, nil
}

// metaOffset returns the offset of the value of Resource.meta in canonical JSON, which
// begins with the type, the id and the Meta.
func metaOffset(resource, meta []byte) int {
	key := append([]byte(`"meta":`), meta...)
	for i := 0; i+len(key) <= len(resource); i++ {
		if resource[i] == '"' && string(resource[i:i+len(key)]) == string(key) {
			return i + len(`"meta":`)
		}
	}
	return 0
}

func addMeta(meta map[string]json.RawMessage, by *metaChange) error {
	var profiles []string
	if raw := meta["profile"]; raw != nil {
		if err := json.Unmarshal(raw, &profiles); err != nil {
			return err
		}
	}
	n := len(profiles)
	for _, p := range by.Profile {
		if !slices.Contains(profiles, p) {
			profiles = append(profiles, p)
		}
	}
	if len(profiles) > n {
		raw, err := json.Marshal(profiles)
		if err != nil {
			return err
		}
		meta["profile"] = raw
	}
	for name, codings := range map[string][]rawCoding{"tag": by.Tag, "security": by.Security} {
		list, err := codingsIn(meta[name])
		if err != nil {
			return err
		}
		n := len(list)
		for _, c := range codings {
			if !slices.ContainsFunc(list, c.is) {
				list = append(list, c)
			}
		}
		if len(list) > n {
			if err := setCodings(meta, name, list); err != nil {
				return err
			}
		}
	}
	return nil
}

func deleteMeta(meta map[string]json.RawMessage, by *metaChange) error {
	var profiles []string
	if raw := meta["profile"]; raw != nil {
		if err := json.Unmarshal(raw, &profiles); err != nil {
			return err
		}
	}
	n := len(profiles)
	profiles = slices.DeleteFunc(profiles, func(p string) bool { return slices.Contains(by.Profile, p) })
	if len(profiles) < n {
		delete(meta, "_profile") // its extensions are by position
	}
	switch {
	case len(profiles) == n:
	case len(profiles) == 0:
		delete(meta, "profile")
	default:
		raw, err := json.Marshal(profiles)
		if err != nil {
			return err
		}
		meta["profile"] = raw
	}
	for name, codings := range map[string][]rawCoding{"tag": by.Tag, "security": by.Security} {
		list, err := codingsIn(meta[name])
		if err != nil {
			return err
		}
		n := len(list)
		list = slices.DeleteFunc(list, func(x rawCoding) bool { return slices.ContainsFunc(codings, x.is) })
		if len(list) < n {
			if err := setCodings(meta, name, list); err != nil {
				return err
			}
		}
	}
	return nil
}

// rawCoding is a Coding with its bytes, which may have members that element.Coding lacks.
type rawCoding struct {
	raw json.RawMessage
	element.Coding
}

// UnmarshalJSON implements json.Unmarshaler.
func (x *rawCoding) UnmarshalJSON(b []byte) error {
	x.raw = slices.Clone(b)
	return json.Unmarshal(b, &x.Coding)
}

func (x rawCoding) is(c rawCoding) bool { return x.System == c.System && x.Code == c.Code }

func codingsIn(raw json.RawMessage) (out []rawCoding, err error) {
	if raw == nil {
		return nil, nil
	}
	err = json.Unmarshal(raw, &out)
	return out, err
}

func setCodings(meta map[string]json.RawMessage, name string, list []rawCoding) error {
	if len(list) == 0 {
		delete(meta, name)
		return nil
	}
	raws := make([]json.RawMessage, len(list))
	for i := range list {
		raws[i] = list[i].raw
	}
	out, err := json.Marshal(raws)
	meta[name] = out
	return err
}
