package audit

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// Files under the data directory.
const (
	keyFile        = "keys/audit-note.key" // the signer key, 0600; the verifier key in its second line
	checkpointFile = "audit/checkpoint"    // the latest checkpoint, outside the store
)

// checkpoint is an opened one.
type checkpoint struct {
	origin string
	size   uint64
	root   tlog.Hash
}

// openCheckpoint checks the signature and reads the C2SP checkpoint.
func openCheckpoint(msg []byte, vkey string) (*checkpoint, error) {
	v, err := note.NewVerifier(strings.TrimSpace(vkey))
	if err != nil {
		return nil, err
	}
	n, err := note.Open(msg, note.VerifierList(v))
	if err != nil {
		return nil, err
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) < 4 || lines[0] != v.Name() {
		return nil, errCheckpoint
	}
	size, err := strconv.ParseUint(lines[1], 10, 62)
	if err != nil || strconv.FormatUint(size, 10) != lines[1] {
		return nil, errCheckpoint
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return nil, errCheckpoint
	}
	return &checkpoint{origin: lines[0], size: size, root: tlog.Hash(root)}, nil
}

// NotaryOptions of OpenNotary.
type NotaryOptions struct {
	Store store.Store
	// Dir is the data directory; keys/ and audit/ are made in it.
	Dir string
	// Origin names the log in its checkpoints, e.g. "pulse.example.org/audit".
	Origin string
	Rand   io.Reader
	Clock  func() time.Time
	// Every is the time between checkpoints while the log grows. Zero: 1 s.
	Every  time.Duration
	Logger *slog.Logger
}

// Notary signs the log's head while it grows.
type Notary struct {
	opts   NotaryOptions
	signer note.Signer
	vkey   string
	mu     sync.Mutex
	last   *checkpoint
	bytes  []byte
}

// OpenNotary loads the key (made on the first start) and holds the log to
// the last checkpoint on disk: a log that is shorter, or does not continue
// it, is refused with kind Conflict, and the server must not start.
func OpenNotary(o NotaryOptions) (*Notary, error) {
	const op = "audit.OpenNotary"
	if o.Store == nil || o.Rand == nil || o.Dir == "" {
		return nil, fhir.Errorf(fhir.Internal, op, "store, randomness and directory are needed")
	}
	if o.Every <= 0 {
		o.Every = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Origin = strings.Join(strings.Fields(strings.ReplaceAll(o.Origin, "+", "-")), "-"); o.Origin == "" {
		o.Origin = "pulsegate/audit"
	}
	n := &Notary{opts: o}
	if err := n.loadKey(); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	msg, err := os.ReadFile(filepath.Join(o.Dir, checkpointFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return n, nil
	case err != nil:
		return nil, fhir.Wrap(op, err)
	}
	c, err := openCheckpoint(msg, n.vkey)
	if err != nil {
		return nil, fhir.Errorf(fhir.Conflict, op, "the audit checkpoint on disk cannot be read or is not signed by this server's key")
	}
	size := o.Store.Log().Size()
	if size < c.size {
		return nil, fhir.Errorf(fhir.Conflict, op, "the audit log has %d leaves, its last signed checkpoint %d: the store was rolled back", size, c.size)
	}
	if c.size > 0 {
		root, err := o.Store.Log().Root(c.size)
		if err != nil {
			return nil, fhir.Wrap(op, err)
		}
		if tlog.Hash(root) != c.root {
			return nil, fhir.Errorf(fhir.Conflict, op, "the audit log does not continue its last signed checkpoint of %d leaves", c.size)
		}
	}
	n.last, n.bytes = c, msg
	return n, nil
}

func (n *Notary) loadKey() error {
	path := filepath.Join(n.opts.Dir, keyFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		skey, vkey, gerr := note.GenerateKey(n.opts.Rand, n.opts.Origin)
		if gerr != nil {
			return gerr
		}
		raw = []byte(skey + "\n" + vkey + "\n")
		err = writeFile(path, raw)
	}
	if err != nil {
		return err
	}
	skey, vkey, ok := strings.Cut(strings.TrimSpace(string(raw)), "\n")
	if !ok {
		return errors.New("the audit key file is not readable")
	}
	if n.signer, err = note.NewSigner(skey); err != nil {
		// note's error may quote the key.
		return errors.New("the audit key file is not readable")
	}
	n.vkey = strings.TrimSpace(vkey)
	return nil
}

// Verifier returns the public verifier key, to be given to auditors.
func (n *Notary) Verifier() string { return n.vkey }

// Checkpoint returns the latest signed checkpoint; nil before the first.
func (n *Notary) Checkpoint() []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	return bytes.Clone(n.bytes)
}

// Sign writes a checkpoint of the log as it is now, if it grew.
func (n *Notary) Sign() error {
	const op = "audit.Sign"
	n.mu.Lock()
	defer n.mu.Unlock()
	size := n.opts.Store.Log().Size()
	if size == 0 || n.last != nil && size == n.last.size {
		return nil
	}
	if n.last != nil && size < n.last.size {
		return fhir.Errorf(fhir.Conflict, op, "the audit log became shorter than its last checkpoint")
	}
	root, err := n.opts.Store.Log().Root(size)
	if err != nil {
		return fhir.Wrap(op, err)
	}
	text := n.signer.Name() + "\n" + strconv.FormatUint(size, 10) + "\n" + base64.StdEncoding.EncodeToString(root[:]) + "\n"
	msg, err := note.Sign(&note.Note{Text: text}, n.signer)
	if err != nil {
		return fhir.Wrap(op, err)
	}
	if err := writeFile(filepath.Join(n.opts.Dir, checkpointFile), msg); err != nil {
		return fhir.Wrap(op, err)
	}
	n.last, n.bytes = &checkpoint{origin: n.signer.Name(), size: size, root: root}, msg
	return nil
}

// Run signs every Every until ctx ends, and once more at the end. A failure
// is logged and tried again: the log itself is safe without it.
func (n *Notary) Run(ctx context.Context) error {
	t := time.NewTicker(n.opts.Every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return n.Sign()
		case <-t.C:
			if err := n.Sign(); err != nil {
				n.opts.Logger.ErrorContext(ctx, "audit checkpoint could not be written", "err", err)
			}
		}
	}
}

// writeFile replaces path atomically and durably, readable by the owner only.
func writeFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+".tmp*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if _, err = f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err = f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil // renamed: the file is whole either way
	}
	return errors.Join(d.Sync(), d.Close())
}
