package ingest

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// sweep selects the stored Observations that the vendor no longer holds.
type sweep struct {
	window  *Window                       // nil for an object with an id of the vendor's
	metrics map[string]mapping.Membership // of the Observations
	// at is the latest commit when the vendor's statement arrived. Observations that
	// another delivery has written since are kept.
	at store.Seq
	// stated holds what the payload states; nil means that the vendor deleted
	// everything.
	stated   *statements
	channels channels // if stated is not nil
}

const (
	// maxMissing limits the ids of one search of a sweep.
	maxMissing = 1 << 17
	// sweepBatch limits the Observations of one commit of a sweep.
	sweepBatch = 256
)

// storedStatement is a stored Observation as a statement of the vendor.
type storedStatement struct {
	storedElements
	Code     element.CodeableConcept `json:"code"`
	id       string
	metric   string
	vendorID string
	version  fhir.Resource
	// newer is set if the version was written after sweep.at.
	newer bool
}

// statement decodes a stored Observation.
func (d *delivery) statement(body []byte) (obs storedStatement, err error) {
	if err := json.Unmarshal(body, &obs); err != nil {
		return obs, fhir.Wrap("ingest.sweep", err)
	}
	system := d.pipeline.Mapper.System(d.request.Vendor)
	for _, c := range obs.Code.Coding {
		if c.System == system {
			obs.metric = c.Code
		}
	}
	obs.vendorID = obs.identifier(d.sourceSystem())
	return obs, nil
}

func (d *delivery) sourceSystem() string {
	return fhir.Canonical + "/identifier/" + d.request.Vendor + "/source"
}

// sweep retracts the Observations of sw, in commits of limited size.
func (d *delivery) sweep(ctx context.Context, sw *sweep) error {
	if len(sw.metrics) == 0 {
		return nil
	}
	if sw.stated != nil {
		if _, err := d.loadChannels(ctx, &sw.channels); err != nil {
			return err
		}
	}
	for {
		ids, err := d.missing(ctx, sw)
		if err != nil {
			return err
		}
		before := d.summary.Retracted
		for chunk := range slices.Chunk(ids, sweepBatch) {
			if err := d.retractAll(ctx, sw, chunk, false); err != nil {
				return err
			}
		}
		if len(ids) < maxMissing || d.summary.Retracted == before {
			break
		}
	}
	return d.sweepDocuments(ctx, sw)
}

// sweepDocuments retracts the Observations that the stated documents no longer
// have. They may be outside the window, if the document has moved.
func (d *delivery) sweepDocuments(ctx context.Context, sw *sweep) error {
	if sw.stated == nil {
		return nil
	}
	var missing []string
	for _, doc := range slices.SortedFunc(maps.Keys(sw.stated.documents), document.compare) {
		ids, err := d.idsOf(ctx, doc.vendorID)
		if err != nil {
			return err
		}
		list, err := d.read(ctx, sw, slices.DeleteFunc(ids, sw.states))
		if err != nil {
			return err
		}
		for i := range list {
			if sw.metrics[list[i].metric].Type == doc.typ {
				missing = append(missing, list[i].id)
			}
		}
	}
	for chunk := range slices.Chunk(missing, sweepBatch) {
		if err := d.retractAll(ctx, sw, chunk, true); err != nil {
			return err
		}
	}
	return nil
}

// familyOf returns the number of metrics of a type.
func (sw *sweep) familyOf(typ string) (n int) {
	for _, member := range sw.metrics {
		if member.Type == typ {
			n++
		}
	}
	return n
}

// missing returns the ids of up to maxMissing Observations in the window of sw
// that are not stated. Samples of series are compared without building their
// Observations.
func (d *delivery) missing(ctx context.Context, sw *sweep) (ids []string, err error) {
	f, err := d.searchWindow(sw)
	if err != nil || f.Query == nil {
		return nil, err
	}
	var failure error
	doc := func(found *store.Found) bool {
		if found.Facts.Vendor != d.request.Vendor || sw.states(found.Resource.ID) {
			return true
		}
		var obs storedStatement
		if obs, failure = d.statement(found.Resource.JSON); failure != nil {
			return false
		}
		if obs.Status != statusRetracted && sw.covers(&obs) && sw.window.contains(&obs.storedElements) &&
			!d.keepsOld(&obs.storedElements) {
			ids = append(ids, strings.Clone(found.Resource.ID))
		}
		return len(ids) < maxMissing
	}
	columnar, ok := d.pipeline.Store.(store.Columnar)
	if !ok {
		err = d.pipeline.Store.Find(ctx, f, doc)
		return ids, fhir.Wrap("ingest.sweep", cmp.Or(err, failure))
	}
	var raw []byte
	err = columnar.FindRuns(ctx, f, doc, func(run *store.Run) bool {
		if run.Template.Vendor != d.request.Vendor {
			return true
		}
		var columns *series.Columns
		if columns, failure = run.Load(); failure != nil {
			return false
		}
		for i := run.From; i < run.To && len(ids) < maxMissing; i++ {
			s := columns.At(i)
			from := wallClock(s.Start, s.Off)
			to := from
			if s.End != series.NoEnd {
				to = wallClock(s.End, s.EndOff)
			}
			if !sw.window.containsTime(from, to) || over(to, s.End == series.NoEnd, d.request.Since) {
				continue
			}
			k := run.Template.Key(&s)
			if raw = k.AppendID(raw[:0]); sw.stated == nil || !sw.stated.has(xxhash.Sum64(raw)) {
				ids = append(ids, string(raw))
			}
		}
		return len(ids) < maxMissing
	})
	return ids, fhir.Wrap("ingest.sweep", cmp.Or(err, failure))
}

// states reports whether the payload states the Observation with an id.
func (sw *sweep) states(id string) bool { return sw.stated != nil && sw.stated.stated(id) }

// searchWindow returns a query for the Observations of a sweep with a window, or
// none if there can be no such Observations.
func (d *delivery) searchWindow(sw *sweep) (store.Find, error) {
	system := d.pipeline.Mapper.System(d.request.Vendor)
	var codes []string
	for metric, member := range sw.metrics {
		if member.Times || member.Days && sw.window.Days {
			codes = append(codes, token(system, metric))
		}
	}
	if len(codes) == 0 {
		return store.Find{}, nil
	}
	slices.Sort(codes)
	from, to := sw.window.bounds()
	return d.searchFor([2]string{"code", strings.Join(codes, ",")}, [2]string{"date", "ge" + from.Format(time.RFC3339)},
		[2]string{"date", "le" + to.Format(time.RFC3339)})
}

// searchFor returns a query for Observations of the patient.
func (d *delivery) searchFor(params ...[2]string) (store.Find, error) {
	return findObservations(append([][2]string{{"patient", d.request.Patient}}, params...)...)
}

// findObservations returns a query for Observations.
func findObservations(params ...[2]string) (store.Find, error) {
	q, err := search.Parse("Observation", params, search.ParseOptions{})
	return store.Find{Query: q, Filter: access.All().Filter(access.Search)}, fhir.Wrap("ingest.find", err)
}

// token returns the value of a token parameter.
func token(system, code string) string { return system + "|" + escapeToken.Replace(code) }

// escapeToken escapes the separators of search values (FHIR R4, 3.1.1.4.9).
var escapeToken = strings.NewReplacer(`\`, `\\`, `,`, `\,`, `|`, `\|`, `$`, `\$`)

// retractAll retracts those of the given Observations that still belong to sw, in
// one commit: with the documents that they are parts of if the window still
// contains these, or, if whole is set, alone and wherever they are.
func (d *delivery) retractAll(ctx context.Context, sw *sweep, ids []string, whole bool) error {
	return d.exclusively(ctx, func() error { return d.tryRetract(ctx, sw, ids, whole) })
}

// tryRetract is one attempt of retractAll.
func (d *delivery) tryRetract(ctx context.Context, sw *sweep, ids []string, whole bool) error {
	began := d.pipeline.Clock()
	if err := d.checkConsent(ctx); err != nil {
		return err
	}
	a := newAttempt()
	a.sweeping = true
	list, err := d.read(ctx, sw, ids)
	if err != nil {
		return err
	}
	for i := range list {
		obs := &list[i]
		parts := []storedStatement{*obs}
		if !whole {
			if !sw.window.contains(&obs.storedElements) {
				continue // restated since
			}
			if parts, err = d.parts(ctx, sw, obs); err != nil {
				return err
			}
		}
		for j := range parts {
			if err := d.addMissing(ctx, sw, &parts[j], a); err != nil {
				return err
			}
		}
	}
	d.addRetractions(a)
	if len(a.batch.Writes) == 0 {
		return nil
	}
	if err := d.addDueNights(ctx, a); err != nil {
		return err
	}
	if err := d.write(ctx, a, false); err != nil {
		return err
	}
	d.account(ctx, newBatch(), a, began)
	return nil
}

// read returns those of the given Observations that the vendor has delivered.
func (d *delivery) read(ctx context.Context, sw *sweep, ids []string) (list []storedStatement, err error) {
	refs := make([]fhir.Ref, len(ids))
	for i, id := range ids {
		refs[i] = fhir.Ref{Type: "Observation", ID: id}
	}
	heads, err := d.pipeline.Store.Heads(ctx, refs)
	if err != nil {
		return nil, fhir.Wrap("ingest.sweep", err)
	}
	for i, head := range heads {
		if head.Version == 0 || head.Deleted {
			continue
		}
		v, facts, err := d.pipeline.Store.Read(ctx, refs[i], 0)
		if err != nil {
			return nil, fhir.Wrap("ingest.sweep", err)
		}
		if facts.Vendor != d.request.Vendor {
			continue
		}
		obs, err := d.statement(v.JSON)
		if err != nil {
			return nil, err
		}
		obs.id, obs.version, obs.newer = ids[i], v, head.Seq > sw.at
		list = append(list, obs)
	}
	return list, nil
}

// parts returns the Observations that are missing if obs is: those of the
// vendor's document that obs belongs to, or obs alone. It returns none if the
// document is not in the window. The window contains a document if it contains
// the Observation with the type as its metric. A document without one is in the
// window if its daily values are, or else if all its parts are.
func (d *delivery) parts(ctx context.Context, sw *sweep, obs *storedStatement) ([]storedStatement, error) {
	typ := sw.metrics[obs.metric].Type
	if obs.vendorID == "" || sw.familyOf(typ) < 2 {
		return []storedStatement{*obs}, nil
	}
	ids, err := d.idsOf(ctx, obs.vendorID)
	if err != nil {
		return nil, err
	}
	list, err := d.read(ctx, sw, ids)
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(other storedStatement) bool { return sw.metrics[other.metric].Type != typ })
	within := true
	hasDay := slices.ContainsFunc(list, func(other storedStatement) bool { return other.isDay() })
	for i := range list {
		other := &list[i]
		in := sw.window.contains(&other.storedElements) || sw.states(other.id)
		if other.metric == typ {
			within = in
			break
		}
		within = within && (in || hasDay && !other.isDay())
	}
	if !within {
		return nil, nil
	}
	return list, nil
}

// idsOf returns the Observations with an id of the vendor's.
func (d *delivery) idsOf(ctx context.Context, vendorID string) (ids []string, err error) {
	f, err := d.searchFor([2]string{"identifier", token(d.sourceSystem(), vendorID)})
	if err != nil {
		return nil, err
	}
	err = d.pipeline.Store.Find(ctx, f, func(found *store.Found) bool {
		ids = append(ids, strings.Clone(found.Resource.ID))
		return true
	})
	return ids, fhir.Wrap("ingest.sweep", err)
}

// addMissing adds the retraction of obs to a unless it is still true.
func (d *delivery) addMissing(ctx context.Context, sw *sweep, obs *storedStatement, a *commitAttempt) error {
	typ := sw.metrics[obs.metric].Type
	switch {
	case !sw.covers(obs) || obs.newer || obs.Status == statusRetracted || sw.states(obs.id):
		return nil
	case d.keepsOld(&obs.storedElements):
		return nil
	case d.isNight(obs.metric) && !strings.Contains(obs.vendorID, statedMark):
		return nil // derived from segments
	case sw.stated != nil && (sw.stated.protects(obs, typ) || !sw.mayState(obs)):
		return nil
	}
	ok, err := d.covered(ctx, d.pipeline.Mapper.Categories(d.request.Vendor, obs.metric))
	if err != nil || !ok {
		return err
	}
	a.retractions = append(a.retractions, retraction{ref: fhir.Ref{Type: "Observation", ID: obs.id}, metric: obs.metric,
		json: unstamped(&obs.version)})
	return d.addRetractedSegment(ctx, obs, a)
}

// covers reports whether an Observation belongs to the types of sw.
func (sw *sweep) covers(obs *storedStatement) bool {
	member := sw.metrics[obs.metric]
	if obs.isDay() {
		return member.Days
	}
	return member.Times
}

// mayState reports whether the channel of the payload states what a stored
// Observation states: another channel of the vendor may have delivered it.
func (sw *sweep) mayState(obs *storedStatement) bool {
	c, device := &sw.channels, obs.Device.Reference
	switch {
	case !c.hasCoarse():
		return !sw.coarse()
	case sw.coarse():
		return c.isCoarse(device) && !c.isNameOnly(device)
	case device == "":
		return !c.Unnamed
	}
	return !c.isCoarse(device)
}

func (sw *sweep) coarse() bool { return sw.window.Coarse || sw.stated.coarse }

// addRetractedSegment records that the nights of a segment must be derived again.
func (d *delivery) addRetractedSegment(ctx context.Context, obs *storedStatement, a *commitAttempt) error {
	if !slices.ContainsFunc(d.pipeline.Mapper.Segments(d.request.Vendor),
		func(s mapping.Segments) bool { return s.Metric == obs.metric }) {
		return nil
	}
	from, to, ok := obs.effective()
	stream := obs.identifier(mapping.StreamSystem)
	if !ok {
		return nil
	}
	var failure error
	err := d.pipeline.Store.List(ctx, d.nightPrefix(), func(_ string, raw []byte) bool {
		var nights sourceNights
		if failure = json.Unmarshal(raw, &nights); failure != nil {
			return false
		}
		for _, name := range []string{stream, obs.Device.Reference} {
			if name != "" && slices.Contains(nights.Streams, name) {
				segments := a.segmentsOf(nights.Source, name)
				segments.due = append(segments.due, period{from.Unix(), to.Unix()})
			}
		}
		return true
	})
	return fhir.Wrap("ingest.sweep", cmp.Or(err, failure))
}
