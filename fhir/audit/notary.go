package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
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
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/store"
)

// Paths of files within the data directory.
const (
	keyFile        = "keys/audit-note.key" // signer key and, in the second line, verifier key; mode 0600
	checkpointFile = "audit/checkpoint"    // latest checkpoint
)

// checkpoint is a parsed checkpoint with a valid signature.
type checkpoint struct {
	origin string
	size   uint64
	root   tlog.Hash
}

// openCheckpoint verifies the signature of a C2SP checkpoint and parses it.
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

// NotaryOptions configures a Notary.
type NotaryOptions struct {
	Store store.Store
	// Dir is the data directory. OpenNotary creates keys/ and audit/ in it.
	Dir string
	// Origin names the log in its checkpoints, e.g. "pulse.example.org/audit".
	Origin string
	Rand   io.Reader
	Clock  func() time.Time
	// Every is the time between checkpoints while the log grows. The default is 1
	// second.
	Every  time.Duration
	Logger *slog.Logger
	// Accept makes OpenNotary accept a log that does not continue the checkpoint on
	// disk, which it rejects otherwise. It is the decision of an operator.
	Accept bool
	// Roles gives the role of the process that signs to a Notary of a cluster.
	Roles role.Roles
}

// Notary signs checkpoints of the growing log.
type Notary struct {
	opts   NotaryOptions
	shared *shared    // nil for a server without a cluster
	mu     sync.Mutex // guards the key, last and bytes
	noteKey
	last  *checkpoint
	bytes []byte // last as signed
	// accepted describes the problems that NotaryOptions.Accept overrode.
	accepted string
}

// OpenNotary loads the key and checks that the log continues the last checkpoint on
// disk. The first start generates the key and signs a checkpoint of the empty log;
// from then on both must exist. Unless Accept is set, OpenNotary returns an error
// of kind Conflict if the log is shorter than the checkpoint or does not continue
// it, if the checkpoint is missing or cannot be read, or if the key is missing. The
// server must not start then.
func OpenNotary(o NotaryOptions) (*Notary, error) {
	const op = "audit.OpenNotary"
	n, err := newNotary(o)
	if err != nil {
		return nil, err
	}
	_, kerr := os.Lstat(filepath.Join(o.Dir, keyFile))
	msg, err := n.readCheckpoint()
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	first := o.Store.Log().Size() == 0 && errors.Is(kerr, fs.ErrNotExist) && msg == nil
	if errors.Is(kerr, fs.ErrNotExist) && !first {
		err := n.reject(keyFile + ", which signs the checkpoints of the audit log, is missing")
		if err != nil {
			return nil, err
		}
	}
	if err := n.loadKey(); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	if first {
		return n, fhir.Wrap(op, n.sign(0, sha256.Sum256(nil)))
	}
	c, problem, err := n.continues(msg, n.vkey, checkpointFile)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	if problem == "" {
		n.last, n.bytes = c, msg
		return n, nil
	}
	if err := n.reject(problem); err != nil {
		return nil, err
	}
	return n, fhir.Wrap(op, n.setAside(msg))
}

func newNotary(o NotaryOptions) (*Notary, error) {
	if o.Store == nil || o.Rand == nil || o.Dir == "" {
		return nil, fhir.Errorf(fhir.Internal, "audit.OpenNotary", "Store, Rand and Dir are required")
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
	return &Notary{opts: o}, nil
}

// readCheckpoint returns the checkpoint on disk, or nil if it does not exist.
func (n *Notary) readCheckpoint() ([]byte, error) {
	msg, err := os.ReadFile(filepath.Join(n.opts.Dir, checkpointFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return msg, err
}

// reject returns an error for a problem with the log unless Accept is set.
func (n *Notary) reject(problem string) error {
	if !n.opts.Accept {
		return fhir.Errorf(fhir.Conflict, "audit.OpenNotary",
			"%s; restore it, or accept the log as it is with `pulsegate recover audit-log`, which is recorded",
			problem)
	}
	if n.accepted != "" {
		problem = n.accepted + "; " + problem
	}
	n.accepted = problem
	return nil
}

// continues checks the log against its last checkpoint, which is nil if it does not
// exist; source is the place of the checkpoint. problem is empty if the log continues
// the checkpoint.
func (n *Notary) continues(msg []byte, vkey, source string) (c *checkpoint, problem string, err error) {
	if msg == nil {
		return nil, fmt.Sprintf("the audit log has %d leaves, and %s, its last signed checkpoint, is missing",
			n.opts.Store.Log().Size(), source), nil
	}
	if c, err = openCheckpoint(msg, vkey); err != nil {
		return nil, source + " cannot be read or is not signed by this server's key", nil
	}
	if problem, err = n.extends(c); problem != "" || err != nil {
		return nil, problem, err
	}
	return c, "", nil
}

// extends checks the log against a checkpoint. problem is empty if the log continues it.
func (n *Notary) extends(c *checkpoint) (problem string, err error) {
	log := n.opts.Store.Log()
	if size := log.Size(); size < c.size {
		return fmt.Sprintf("the audit log has %d leaves, its last signed checkpoint %d: the store was rolled back",
			size, c.size), nil
	}
	if c.size == 0 {
		return "", nil
	}
	root, err := log.Root(c.size)
	switch {
	case err != nil && fhir.KindOf(err) == fhir.Unavailable:
		return "", err
	case err != nil || tlog.Hash(root) != c.root:
		return fmt.Sprintf("the audit log does not continue its last signed checkpoint of %d leaves", c.size), nil
	}
	return "", nil
}

// setAside renames a checkpoint that the log does not continue, so that auditors
// can examine it.
func (n *Notary) setAside(msg []byte) error {
	if msg == nil {
		return nil
	}
	return os.Rename(filepath.Join(n.opts.Dir, checkpointFile), filepath.Join(n.opts.Dir, former(msg)))
}

// former returns the name of the file for a checkpoint that the log does not continue.
func former(msg []byte) string {
	sum := sha256.Sum256(msg)
	return checkpointFile + ".former-" + hex.EncodeToString(sum[:4])
}

// Accepted describes the problems that NotaryOptions.Accept overrode, or returns ""
// if there were none. The caller must record it before the next Sign.
func (n *Notary) Accepted() string { return n.accepted }

func (n *Notary) loadKey() error {
	path := filepath.Join(n.opts.Dir, keyFile)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		key, err := n.generateKey()
		if err != nil {
			return err
		}
		if err := writeFile(path, key); err != nil {
			return err
		}
	}
	key, err := readKeyFile(path)
	if err != nil {
		return err
	}
	n.noteKey, err = parseKey(key, keyFile)
	return err
}

// noteKey is a key that signs checkpoints, with its verifier key.
type noteKey struct {
	signer note.Signer
	vkey   string
}

// generateKey returns a new key as it is stored.
func (n *Notary) generateKey() ([]byte, error) {
	skey, vkey, err := note.GenerateKey(n.opts.Rand, n.opts.Origin)
	return []byte(skey + "\n" + vkey + "\n"), err
}

func readKeyFile(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if info, err := os.Lstat(path); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, errors.New("keys/audit-note.key must be a regular file that only its owner may read (mode 0600)")
	}
	return raw, nil
}

// parseKey parses a stored key. source is its place.
func parseKey(raw []byte, source string) (noteKey, error) {
	malformed := errors.New(source + " cannot be parsed")
	skey, vkey, ok := strings.Cut(strings.TrimSpace(string(raw)), "\n")
	if !ok {
		return noteKey{}, malformed
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		return noteKey{}, malformed // the error of package note may contain the key
	}
	return noteKey{signer, strings.TrimSpace(vkey)}, nil
}

// Verifier returns the public verifier key for auditors.
func (n *Notary) Verifier() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.vkey
}

// Checkpoint returns the latest signed checkpoint, or nil before the first.
func (n *Notary) Checkpoint() []byte {
	if n.shared != nil {
		if err := n.follow(context.Background()); err != nil {
			n.opts.Logger.Error("audit checkpoint of the cluster was not taken over", "error", err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return bytes.Clone(n.bytes)
}

// Cover returns when the latest checkpoint covers the log as it is now. In a cluster,
// it waits for the process that signs. If there is none for a while, Cover returns
// nil, and the latest checkpoint is an earlier one.
func (n *Notary) Cover(ctx context.Context) error {
	if n.shared != nil {
		return n.await(ctx)
	}
	return n.Sign()
}

// Sign signs a checkpoint of the current log if it has grown since the last one. In a
// cluster, a process that does not have the role of the notary signs nothing.
func (n *Notary) Sign() error {
	if n.shared != nil {
		return n.signShared(context.Background())
	}
	const op = "audit.Sign"
	n.mu.Lock()
	defer n.mu.Unlock()
	size := n.opts.Store.Log().Size()
	if size == 0 || n.last != nil && size == n.last.size {
		return nil
	}
	if n.last != nil && size < n.last.size {
		return fhir.Errorf(fhir.Conflict, op, "the audit log is shorter than its last checkpoint")
	}
	root, err := n.opts.Store.Log().Root(size)
	if err != nil {
		return fhir.Wrap(op, err)
	}
	return fhir.Wrap(op, n.sign(size, root))
}

// sign signs and writes a checkpoint of the first size leaves.
func (n *Notary) sign(size uint64, root tlog.Hash) error {
	msg, err := n.noteKey.sign(size, root)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(n.opts.Dir, checkpointFile), msg); err != nil {
		return err
	}
	n.last, n.bytes = &checkpoint{origin: n.signer.Name(), size: size, root: root}, msg
	return nil
}

// sign returns a signed checkpoint of the first size leaves.
func (k noteKey) sign(size uint64, root tlog.Hash) ([]byte, error) {
	text := k.signer.Name() + "\n" + strconv.FormatUint(size, 10) + "\n" +
		base64.StdEncoding.EncodeToString(root[:]) + "\n"
	return note.Sign(&note.Note{Text: text}, k.signer)
}

// Run calls Sign at the interval Every until ctx ends, and once more at the end. It
// logs errors and retries, because the log does not depend on checkpoints. In a
// cluster, it signs while this process has the role, and writes the checkpoints that
// another process has signed to the checkpoint file.
func (n *Notary) Run(ctx context.Context) error {
	if n.shared != nil {
		return n.runShared(ctx)
	}
	t := time.NewTicker(n.opts.Every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return n.Sign()
		case <-t.C:
			if err := n.Sign(); err != nil {
				n.opts.Logger.ErrorContext(ctx, "audit checkpoint could not be written", "error", err)
			}
		}
	}
}

// writeFile replaces a file atomically and durably. Only the owner can read it.
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
		return nil // the rename is done; only its durability is uncertain
	}
	return errors.Join(d.Sync(), d.Close())
}
