package bulk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/follow"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/store"
)

// Target keeps copies of the files of exports, outside of this server. Package bucket
// implements it.
type Target interface {
	// Put stores the object that write writes. If write fails, it stores nothing and returns
	// the error. An object of the same name is replaced.
	Put(ctx context.Context, name string, write func(io.Writer) error) error
	// Delete deletes an object. It returns nil if there is none.
	Delete(ctx context.Context, name string) error
	// Locate returns the address of an object, for manifests.
	Locate(name string) string
	// Host returns the host and port that receives the data, for the audit trail.
	Host() string
}

// Delivery configures the copies of files.
type Delivery struct {
	Target Target
	// Clients lists the ids of the clients whose exports are delivered.
	Clients []string
	// Remove is set if the objects of a job are deleted when its client deletes the job.
	Remove bool
	// FileTimeout bounds the delivery of one file. The default is an hour.
	FileTimeout time.Duration
	// JobBytes bounds the files of a job that is delivered. The default is 1 TiB.
	JobBytes int64
	// Pause is the time before the first repetition of a failed delivery. It doubles with each
	// failure in a row, up to 64 times. The default is 5 seconds.
	Pause time.Duration
}

func (d Delivery) withDefaults() *Delivery {
	if d.FileTimeout <= 0 {
		d.FileTimeout = time.Hour
	}
	if d.JobBytes <= 0 {
		d.JobBytes = 1 << 40
	}
	if d.Pause <= 0 {
		d.Pause = 5 * time.Second
	}
	return &d
}

// Delivery states.
const (
	delivering = "in-progress"
	delivered  = "complete"
	refused    = "refused"  // the job is too large, or the client may not have it any more
	removing   = "removing" // the job was deleted, and its objects are to be
)

// delivery is the durable state of the copies of one job.
type delivery struct {
	Job   string `json:"job"`
	State string `json:"state"`
	// Done is the number of files that are delivered, in the order of Exporter.names.
	Done int `json:"done,omitempty"`
	// Failures counts failures in a row. Next is the time of the next attempt.
	Failures int       `json:"failures,omitempty"`
	Next     time.Time `json:"next,omitzero"`
	// Remove lists the objects that are to be deleted.
	Remove  []string  `json:"remove,omitempty"`
	Expires time.Time `json:"expires"`

	put string // the object that the last step put
}

const deliveryPrefix = "bulk-delivery/"

func (d *delivery) write(old []byte) (store.StateWrite, error) {
	v, err := json.Marshal(d)
	w := store.StateWrite{Key: deliveryPrefix + d.Job, Value: v, Expires: d.Expires}
	if old != nil {
		w.Expect, w.Old = store.StateEquals, old
	}
	return w, fhir.Wrap("bulk.delivery", err)
}

// delivers reports whether the files of a job are delivered.
func (e *Exporter) delivers(j *job) bool {
	return e.opts.Delivery != nil && slices.Contains(e.opts.Delivery.Clients, j.Client)
}

// deliveryOf returns the delivery of a job and its stored bytes, or nil.
func (e *Exporter) deliveryOf(ctx context.Context, id string) (*delivery, []byte, error) {
	v, err := e.opts.Store.Get(ctx, deliveryPrefix+id)
	if err != nil || v == nil {
		return nil, nil, fhir.Wrap("bulk.delivery", err)
	}
	d := new(delivery)
	return d, v, fhir.Wrap("bulk.delivery", json.Unmarshal(v, d))
}

// names returns the names of the files of a complete job in the order in which they are
// delivered, and the sum of their sizes in bytes as far as these are known.
func (e *Exporter) names(ctx context.Context, j *job) (out []string, size int64, err error) {
	err = e.files(ctx, j.ID, func(f *file, _ []byte) bool {
		out, size = append(out, f.name()), size+f.Size
		return true
	})
	if j.Deleted {
		out = append(out, deletedFile)
	}
	if len(j.Warnings) > 0 {
		out = append(out, errorFile)
	}
	return out, size, err
}

// removal returns the write by which the deletion of a job leads to that of its objects, or
// ends its delivery.
func (e *Exporter) removal(ctx context.Context, j *job) ([]store.StateWrite, error) {
	d, old, err := e.deliveryOf(ctx, j.ID)
	if err != nil || d == nil {
		return nil, err
	}
	if e.opts.Delivery == nil || !e.opts.Delivery.Remove {
		return []store.StateWrite{{Key: deliveryPrefix + j.ID}}, nil
	}
	if d.Remove, _, err = e.names(ctx, j); err != nil {
		return nil, err
	}
	d.State, d.Failures, d.Next, d.Expires = removing, 0, time.Time{}, e.opts.Clock().UTC().Add(removeWithin)
	w, err := d.write(old)
	return []store.StateWrite{w}, err
}

// removeWithin is the time after which the deletion of objects is given up.
const removeWithin = 7 * 24 * time.Hour

// deliverer delivers files while its process has the role "deliveries".
type deliverer struct {
	*Exporter
	*Delivery
	term role.Term
}

// deliverAll delivers files until ctx ends.
func (e *Exporter) deliverAll(ctx context.Context, t role.Term) {
	d := &deliverer{e, e.opts.Delivery, t}
	wake := make(chan struct{}, 1)
	defer e.opts.Store.Watch(func(store.Commit) { follow.Signal(wake) })()
	follow.Signal(wake)
	loop := follow.Loop{Wake: wake, Pause: lookEvery, MinBackoff: lookEvery, MaxBackoff: time.Minute,
		Failed: func(err error) { e.log(ctx, "deliveries of exports could not be read", "", err) }}
	loop.Run(ctx, d.all)
}

// all delivers what is due. It returns the time until more is.
func (d *deliverer) all(ctx context.Context) (next time.Duration, err error) {
	var due []*delivery
	now := d.opts.Clock()
	err = d.opts.Store.List(ctx, deliveryPrefix, func(_ string, v []byte) bool {
		x := new(delivery)
		if json.Unmarshal(v, x) != nil || x.State != delivering && x.State != removing || !now.Before(x.Expires) {
			return true
		}
		if wait := x.Next.Sub(now); wait > 0 {
			if next == 0 || wait < next {
				next = wait
			}
			return true
		}
		due = append(due, x)
		return true
	})
	for _, x := range due {
		if err != nil || ctx.Err() != nil {
			return 0, err
		}
		if err = d.one(ctx, x.Job); err == nil {
			next = time.Millisecond // look again: it may have failed, and be due later
		}
	}
	return next, err
}

// one continues one delivery. A failure of the target is stored, with the time of the next
// attempt, and is no error of one.
func (d *deliverer) one(ctx context.Context, id string) error {
	x, old, err := d.deliveryOf(ctx, id)
	if err != nil || x == nil {
		return err
	}
	for x.State == delivering || x.State == removing {
		err := d.step(ctx, x)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			x.Failures, x.Next = 0, time.Time{}
		case x.State == delivering && final(err):
			d.opts.Logger.WarnContext(ctx, "the delivery of an export was refused", "job", id, "error", err)
			x.State, err = refused, nil
		default:
			d.opts.Logger.WarnContext(ctx, "the delivery of an export failed; it is repeated", "job", id, "error", err)
			x.Next = d.opts.Clock().UTC().Add(d.Pause << min(x.Failures, 6))
			x.Failures++
		}
		w, werr := x.write(old)
		if werr != nil {
			return werr
		}
		if x.State == removing && len(x.Remove) == 0 {
			w.Value = nil
		}
		b := &store.Batch{State: []store.StateWrite{w}}
		d.term.Bind(b)
		if _, werr = d.opts.Store.Commit(ctx, b); store.Lost(werr) {
			return d.lost(ctx, x)
		}
		if werr != nil || err != nil || w.Value == nil {
			return fhir.Wrap("bulk.deliver", werr)
		}
		old = w.Value
	}
	return nil
}

// final reports whether an error of a delivery will not go away.
func final(err error) bool {
	k := fhir.KindOf(err)
	return errors.Is(err, errTooLarge) || k == fhir.Forbidden || k == fhir.Unauthorized || k == fhir.NotFound
}

var errTooLarge = errors.New("the export is larger than what is delivered")

// lost handles a delivery that the deletion of the job, or another process, has changed during
// the step. If all objects were deleted before this one came, it is deleted, too.
func (d *deliverer) lost(ctx context.Context, x *delivery) error {
	now, _, err := d.deliveryOf(ctx, x.Job)
	if err != nil || now != nil || x.put == "" || !d.Remove {
		return err
	}
	return d.Target.Delete(ctx, x.put)
}

// step delivers the next file of a delivery, or deletes the next object.
func (d *deliverer) step(ctx context.Context, x *delivery) error {
	ctx, cancel := context.WithTimeout(ctx, d.FileTimeout)
	defer cancel()
	if x.State == removing {
		if len(x.Remove) == 0 {
			return nil
		}
		last := len(x.Remove) - 1
		err := d.Target.Delete(ctx, x.Job+"/"+x.Remove[last])
		if err == nil {
			x.Remove = x.Remove[:last]
		}
		return unavailable(err)
	}
	v, err := d.opts.Store.Get(ctx, key(x.Job))
	if err != nil {
		return fhir.Wrap("bulk.deliver", err)
	}
	j := new(job)
	if v == nil || json.Unmarshal(v, j) != nil {
		return fhir.Errorf(fhir.NotFound, "bulk.deliver", "the job was deleted")
	}
	names, size, err := d.names(ctx, j)
	switch {
	case err != nil:
		return err
	case size > d.JobBytes:
		return errTooLarge
	case x.Done >= len(names):
		x.State = delivered
		return nil
	}
	for n := 0; ; n++ {
		err := d.file(ctx, j, names[x.Done], n < again)
		if !errors.Is(err, errConsent) {
			if err == nil {
				x.Done, x.put = x.Done+1, j.ID+"/"+names[x.Done]
			}
			return err
		}
	}
}

// again is the number of times that a file is made anew because a consent has changed. After
// that, it is delivered like a download is: blocks that were written stay.
const again = 3

var errConsent = errors.New("a consent has changed")

// file delivers one file, as a download by the client of the job under its current grant. If
// whole is set and a consent changes meanwhile, nothing is delivered and the error is
// errConsent.
func (d *deliverer) file(ctx context.Context, j *job, name string, whole bool) error {
	g, err := d.opts.GrantFor(ctx, j.Client, j.Scope)
	if err != nil {
		return err
	}
	current := *g
	current.Recheck = func(ctx context.Context) error { // The client may be disabled meanwhile.
		_, err := d.opts.GrantFor(ctx, j.Client, j.Scope)
		return err
	}
	object := j.ID + "/" + name
	epoch := d.epoch.Load()
	var own error // of the export, not of the target
	err = d.Target.Put(ctx, object, func(w io.Writer) error {
		own = d.writeFile(ctx, j, &current, name, w)
		if own == nil && whole && d.epoch.Load() != epoch {
			own = errConsent
		}
		return own
	})
	if own != nil && !errors.Is(own, errTarget) {
		return own
	}
	return unavailable(err)
}

// unavailable returns an error of the target, which is never final: an object store may refuse
// a key and accept it later.
func unavailable(err error) error {
	if err != nil && fhir.KindOf(err) != fhir.Unavailable {
		return fhir.Errorf(fhir.Unavailable, "bulk.deliver", "the target did not take a file")
	}
	return err
}

// errTarget marks an error of writing to the target.
var errTarget = errors.New("the target did not take a part")

// marked is a writer whose errors are marked.
type marked struct{ io.Writer }

func (m marked) Write(p []byte) (int, error) {
	n, err := m.Writer.Write(p)
	if err != nil {
		err = fmt.Errorf("%w: %w", errTarget, err)
	}
	return n, err
}

// writeFile writes a file and checks at its end that the client still has the grant.
func (d *deliverer) writeFile(ctx context.Context, j *job, g *access.Grant, name string, w io.Writer) error {
	c := audit.Caller{RequestID: j.ID,
		Principal: &access.Principal{ClientID: j.Client, Scope: j.Scope, Grant: g}}
	f, err := d.Open(ctx, c, j.ID, name)
	if err != nil {
		return err
	}
	f.target = d.Target
	if err := f.WriteTo(ctx, marked{w}); err != nil {
		return err
	}
	if err := d.opts.Store.Sync(ctx); err != nil {
		return fhir.Wrap("bulk.deliver", err)
	}
	return g.Live(ctx)
}

// deliveryExtension is the name of the extension in manifests that tells where copies of files
// are. Its value at the manifest has status, and at a file url.
const deliveryExtension = fhir.Canonical + "/bulk-delivery"

// extension is the element of manifests and of their files that the guide reserves for
// extensions.
type extension map[string]map[string]string

// describe adds to a manifest of a complete job which files were delivered. first is the
// number of files in earlier manifests, and total that of all but deletions and errors.
func (e *Exporter) describe(ctx context.Context, j *job, m *manifest, first, total int) error {
	if e.opts.Delivery == nil {
		return nil
	}
	d, _, err := e.deliveryOf(ctx, j.ID)
	if err != nil || d == nil {
		return err
	}
	m.Extension = &extension{deliveryExtension: {"status": d.State}}
	mark := func(items []fileItem, at int) {
		for i := range items {
			if at+i < d.Done {
				name := items[i].URL[strings.LastIndexByte(items[i].URL, '/')+1:]
				items[i].Extension = &extension{deliveryExtension: {
					"url": e.opts.Delivery.Target.Locate(j.ID + "/" + name)}}
			}
		}
	}
	mark(m.Output, first)
	mark(m.Deleted, total)
	if j.Deleted {
		total++
	}
	for _, outcomes := range []*[]fileItem{m.Error, m.Outcome} {
		if outcomes != nil {
			mark(*outcomes, total)
		}
	}
	return nil
}
