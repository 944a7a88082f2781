package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/cluster/follow"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/cluster/sealed"
	"pulsegate/fhir/store"
)

const (
	// secretName is the name of the signing key in the secrets of a cluster.
	secretName   = "audit-note-key"
	secretSource = "the secret " + secretName + " of the cluster"
	// checkpointKey is the key of the latest checkpoint of a cluster in small state.
	checkpointKey = "audit/checkpoint"
	rowSource     = "the checkpoint of the cluster"
	// roleName is the role of the process that signs.
	roleName = "notary"

	// patience is the time for which Cover waits for another process, in units of Every.
	patience = 4
	// lastSign bounds the signature at the end of Run.
	lastSign = 10 * time.Second
)

// accepted is the value of checkpointKey after an operator has accepted a log that does
// not continue the checkpoint before. The next checkpoint has no predecessor.
var accepted = []byte("accepted")

// shared holds what a Notary of a cluster has in addition.
type shared struct {
	secrets *sealed.Vault
	key     *sealed.Value[noteKey]
	// term is set while this process has the role.
	term atomic.Pointer[role.Term]
	// signing serializes signatures of this process.
	signing sync.Mutex
	wait    time.Duration
}

// OpenSharedNotary is OpenNotary for a server of a cluster. The key is among the secrets
// of the cluster, and the latest checkpoint is in small state, where only the process
// with the role "notary" replaces it. Every process writes it to its own checkpoint
// file, too: a log that was rolled back for all processes at a time, such as a restored
// one, does not continue that file. A process without the file has joined the cluster
// and takes over its checkpoint.
func OpenSharedNotary(ctx context.Context, o NotaryOptions, secrets *sealed.Vault) (*Notary, error) {
	const op = "audit.OpenNotary"
	n, err := newNotary(o)
	if err != nil {
		return nil, err
	}
	if o.Roles == nil {
		return nil, fhir.Errorf(fhir.Internal, op, "Roles is required")
	}
	n.shared = &shared{secrets: secrets, wait: patience * n.opts.Every}
	n.shared.key = sealed.NewValue(secrets, secretName, func(b []byte) (noteKey, error) {
		if b == nil {
			return noteKey{}, nil
		}
		return parseKey(b, secretSource)
	})
	// A process that was away has a checkpoint file that is newer than its copy of the
	// store.
	if err := o.Store.Sync(ctx); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	msg, err := n.readCheckpoint()
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	if err := n.openShared(ctx, msg); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	return n, fhir.Wrap(op, n.follow(ctx))
}

// state returns the key and the latest checkpoint of the cluster, nil if there is none.
func (n *Notary) state(ctx context.Context) (sealed.Secret, []byte, error) {
	_, secret, err := n.shared.key.Get(ctx)
	if err != nil {
		return secret, nil, err
	}
	row, err := n.opts.Store.Get(ctx, checkpointKey)
	return secret, bytes.Clone(row), err
}

// openShared checks that the log continues the checkpoint of the cluster, and the one
// on disk unless file is nil.
func (n *Notary) openShared(ctx context.Context, file []byte) error {
	secret, row, err := n.state(ctx)
	if err != nil {
		return err
	}
	if n.opts.Store.Log().Size() == 0 && !secret.Exists() && row == nil && file == nil {
		if err := n.begin(ctx, secret); !store.Lost(err) {
			return err
		}
		if secret, row, err = n.state(ctx); err != nil { // another process was faster
			return err
		}
	}
	if !secret.Exists() {
		if err := n.reject(secretSource + ", which signs the checkpoints of the audit log, is missing"); err != nil {
			return err
		}
		if secret, err = n.shared.secrets.Make(ctx, secretName, n.generateKey); err != nil {
			return err
		}
	}
	if n.noteKey, err = parseKey(secret.Value, secretSource); err != nil {
		return err
	}
	if !bytes.Equal(row, accepted) {
		_, problem, err := n.continues(row, n.vkey, rowSource)
		if err == nil && problem != "" {
			err = n.acceptRow(ctx, row, problem)
		}
		if err != nil {
			return err
		}
	}
	if file == nil {
		return nil
	}
	c, problem, err := n.continues(file, n.vkey, checkpointFile)
	if err != nil {
		return err
	}
	if problem == "" {
		n.last, n.bytes = c, file
		return nil
	}
	if err := n.reject(problem); err != nil {
		return err
	}
	return n.setAside(file)
}

// begin makes the key of a new cluster and signs the empty log. It fails with Conflict
// if another process does so at the same time.
func (n *Notary) begin(ctx context.Context, none sealed.Secret) error {
	raw, err := n.generateKey()
	if err != nil {
		return err
	}
	key, err := parseKey(raw, secretSource)
	if err != nil {
		return err
	}
	msg, err := key.sign(0, sha256.Sum256(nil))
	if err != nil {
		return err
	}
	write, _, err := n.shared.secrets.Write(none, raw)
	if err != nil {
		return err
	}
	_, err = n.opts.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{write,
		{Key: checkpointKey, Value: msg, Expect: store.StateAbsent}}})
	return err
}

// acceptRow replaces a checkpoint that the log does not continue by the value accepted,
// if Accept is set.
func (n *Notary) acceptRow(ctx context.Context, row []byte, problem string) error {
	if err := n.reject(problem); err != nil {
		return err
	}
	w := store.StateWrite{Key: checkpointKey, Value: accepted, Expect: store.StateAbsent}
	if row != nil {
		if err := writeFile(filepath.Join(n.opts.Dir, former(row)), row); err != nil {
			return err
		}
		w.Expect, w.Old = store.StateEquals, row
	}
	_, err := n.opts.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{w}})
	if store.Lost(err) {
		return nil // another process has replaced it
	}
	return err
}

// follow takes over the latest checkpoint of the cluster: it checks that the log
// continues it and the one before, and writes it to the checkpoint file.
func (n *Notary) follow(ctx context.Context) error {
	const op = "audit.follow"
	n.mu.Lock()
	defer n.mu.Unlock()
	key, secret, err := n.shared.key.Get(ctx)
	if err != nil {
		return err
	}
	if !secret.Exists() {
		return fhir.Errorf(fhir.Unavailable, op, "%s is missing", secretSource)
	}
	n.noteKey = key
	row, err := n.opts.Store.Get(ctx, checkpointKey)
	if err != nil || bytes.Equal(row, n.bytes) || bytes.Equal(row, accepted) {
		return err
	}
	row = bytes.Clone(row)
	c, problem, err := n.continues(row, n.vkey, rowSource)
	if err == nil && problem == "" && n.last != nil {
		problem, err = n.extends(n.last)
	}
	if err != nil {
		return err
	}
	if problem != "" {
		return fhir.Errorf(fhir.Internal, op, "%s", problem)
	}
	if n.last != nil && c.size <= n.last.size {
		return nil
	}
	if err := writeFile(filepath.Join(n.opts.Dir, checkpointFile), row); err != nil {
		return err
	}
	n.last, n.bytes = c, row
	return nil
}

// signShared signs a checkpoint if this process has the role and the log has grown. The
// commit has the preconditions of the role, and that neither the key nor the checkpoint
// before has changed. A checkpoint leaves the process only once it is committed.
func (n *Notary) signShared(ctx context.Context) error {
	const op = "audit.Sign"
	term := n.shared.term.Load()
	if term == nil {
		return n.follow(ctx)
	}
	n.shared.signing.Lock()
	defer n.shared.signing.Unlock()
	if err := n.follow(ctx); err != nil {
		return err
	}
	key, secret, err := n.shared.key.Get(ctx)
	if err != nil {
		return err
	}
	row, err := n.opts.Store.Get(ctx, checkpointKey)
	if err != nil {
		return err
	}
	row = bytes.Clone(row)
	size := n.opts.Store.Log().Size()
	if size == 0 {
		return nil
	}
	if !bytes.Equal(row, accepted) {
		last, problem, err := n.continues(row, key.vkey, rowSource)
		if err != nil {
			return err
		}
		if problem != "" {
			return fhir.Errorf(fhir.Internal, op, "%s", problem)
		}
		if last.size >= size {
			return nil
		}
	}
	root, err := n.opts.Store.Log().Root(size)
	if err != nil {
		return fhir.Wrap(op, err)
	}
	msg, err := key.sign(size, root)
	if err != nil {
		return fhir.Wrap(op, err)
	}
	b := &store.Batch{State: []store.StateWrite{secret.Unchanged(),
		{Key: checkpointKey, Value: msg, Expect: store.StateEquals, Old: row}}}
	(*term).Bind(b)
	if _, err := n.opts.Store.Commit(ctx, b); err != nil {
		return fhir.Wrap(op, err)
	}
	return n.follow(ctx)
}

// await implements Cover.
func (n *Notary) await(ctx context.Context) error {
	if err := n.opts.Store.Sync(ctx); err != nil {
		return err
	}
	size := n.opts.Store.Log().Size()
	committed, stop := follow.Watch(n.opts.Store)
	defer stop()
	late := time.NewTimer(n.shared.wait)
	defer late.Stop()
	for {
		// A process that has just lost the role waits for the next one.
		if err := n.signShared(ctx); err != nil && !store.Lost(err) {
			return err
		}
		if n.covers(size) {
			return nil
		}
		select {
		case <-committed:
		case <-late.C:
			return nil
		case <-ctx.Done():
			return fhir.Wrap("audit.Cover", ctx.Err())
		}
	}
}

func (n *Notary) covers(size uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.last != nil && n.last.size >= size
}

// runShared implements Run.
func (n *Notary) runShared(ctx context.Context) error {
	var signing sync.WaitGroup
	signing.Go(func() { n.opts.Roles.Run(ctx, roleName, n.notarize) })
	n.each(ctx, n.follow)
	signing.Wait()
	return n.follow(context.WithoutCancel(ctx))
}

// notarize signs at the interval Every until ctx ends, and once more at the end, because
// the server may stop.
func (n *Notary) notarize(ctx context.Context, term role.Term) {
	n.shared.term.Store(&term)
	defer n.shared.term.Store(nil)
	n.each(ctx, n.signShared)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastSign)
	defer cancel()
	if err := n.signShared(last); err != nil && !store.Lost(err) {
		n.logFailure(ctx, err)
	}
}

// each calls fn at the interval Every until ctx ends.
func (n *Notary) each(ctx context.Context, fn func(context.Context) error) {
	t := time.NewTicker(n.opts.Every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := fn(ctx); err != nil && ctx.Err() == nil {
				n.logFailure(ctx, err)
			}
		}
	}
}

func (n *Notary) logFailure(ctx context.Context, err error) {
	n.opts.Logger.ErrorContext(ctx, "audit checkpoint could not be written", "error", err)
}

// ImportNotary stores the key and the checkpoint of a single server among the secrets of
// a cluster that has no key yet, and reports whether it did. The server calls it when it
// becomes a cluster, so that auditors can keep their verifier key. The files remain, and
// the key file is not used any more.
func ImportNotary(ctx context.Context, o NotaryOptions, secrets *sealed.Vault) (imported bool, err error) {
	const op = "audit.ImportNotary"
	o.Accept = false
	n, err := newNotary(o)
	if err != nil {
		return false, err
	}
	raw, err := readKeyFile(filepath.Join(o.Dir, keyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fhir.Wrap(op, err)
	}
	if n.noteKey, err = parseKey(raw, keyFile); err != nil {
		return false, fhir.Wrap(op, err)
	}
	msg, err := n.readCheckpoint()
	if err != nil {
		return false, fhir.Wrap(op, err)
	}
	_, problem, err := n.continues(msg, n.vkey, checkpointFile)
	if err == nil && problem != "" {
		err = n.reject(problem)
	}
	if err != nil {
		return false, fhir.Wrap(op, err)
	}
	secret, err := secrets.Get(ctx, secretName)
	if err != nil || secret.Exists() {
		return false, err
	}
	write, _, err := secrets.Write(secret, raw)
	if err != nil {
		return false, err
	}
	_, err = o.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{write,
		{Key: checkpointKey, Value: msg}}})
	return err == nil, fhir.Wrap(op, err)
}

// ExportNotary writes the key of a cluster to the file of OpenNotary, and the checkpoint
// of the cluster in st unless dir has one. A server that leaves its cluster calls it. A
// checkpoint file stays, even if the copy of the store does not continue it: that is for
// OpenNotary to find.
func ExportNotary(ctx context.Context, dir string, st store.State, secrets *sealed.Vault) error {
	const op = "audit.ExportNotary"
	secret, err := secrets.Get(ctx, secretName)
	if err != nil {
		return err
	}
	if _, err := parseKey(secret.Value, secretSource); err != nil {
		return fhir.Wrap(op, err)
	}
	if err := writeFile(filepath.Join(dir, keyFile), secret.Value); err != nil {
		return fhir.Wrap(op, err)
	}
	n := &Notary{opts: NotaryOptions{Dir: dir}}
	msg, err := n.readCheckpoint()
	if err != nil || msg != nil {
		return fhir.Wrap(op, err)
	}
	row, err := st.Get(ctx, checkpointKey)
	if err != nil || row == nil || bytes.Equal(row, accepted) {
		return fhir.Wrap(op, err)
	}
	return fhir.Wrap(op, writeFile(filepath.Join(dir, checkpointFile), row))
}
