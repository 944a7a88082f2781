package pebblestore

import (
	"errors"
	"io/fs"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/sharedlog"
)

// Membership tells to which cluster a closed store belongs.
type Membership struct {
	Exists bool // there is a store with data
	// Cluster and Epoch are zero if the store belongs to no cluster.
	Cluster  [16]byte
	Epoch    uint64
	Position sharedlog.Position
}

// Alone reports whether the store has data and belongs to no cluster.
func (m *Membership) Alone() bool { return m.Exists && m.Cluster == [16]byte{} }

// MembershipOf reads the membership of the store in dir, which is closed and may not
// exist. It changes nothing. If files is nil, the store is on disk.
func MembershipOf(dir string, files vfs.FS) (m Membership, err error) {
	const op = "pebblestore.MembershipOf"
	err = inspect(dir, files, func(pdb *pebble.DB) error {
		v, err := rows.Get(pdb, keys.Position)
		if err != nil {
			return err
		}
		if v == nil {
			head, err := rows.Get(pdb, keys.Head)
			m.Exists = head != nil
			return err
		}
		p, err := rows.DecodePosition(v)
		m = Membership{Exists: true, Cluster: p.Cluster, Epoch: p.Epoch, Position: p.Position}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return Membership{}, nil
	}
	return m, fault.Wrap(op, err)
}

// PositionOf returns the position in the log of the store in dir, which is closed. It
// changes nothing. If files is nil, the store is on disk. It fails with NotFound if the
// store is not shared.
func PositionOf(dir string, files vfs.FS) (sharedlog.Position, error) {
	m, err := MembershipOf(dir, files)
	if err == nil && (!m.Exists || m.Alone()) {
		err = fhir.Errorf(fhir.NotFound, "pebblestore.PositionOf", "the store has no position in a log")
	}
	return m.Position, err
}

// inspect opens the store in dir for reading only.
func inspect(dir string, files vfs.FS, fn func(*pebble.DB) error) (err error) {
	if files == nil {
		files = vfs.Default
	}
	found, err := pebble.Peek(dir, files)
	if err == nil && !found.Exists {
		err = fs.ErrNotExist
	}
	if err != nil {
		return err
	}
	quiet := &DB{opts: Options{Logger: slog.New(slog.DiscardHandler)}}
	pdb, err := pebble.Open(dir, &pebble.Options{FS: files, ReadOnly: true, Merger: rows.Merger,
		Logger: &pebbleLog{db: quiet}, EventListener: quiet.events()})
	if err != nil {
		return fault.Refusal("the store cannot be opened: " + fault.Describe(err))
	}
	defer fault.Close(pdb, &err)
	return fn(pdb)
}

// Leave makes the closed store in dir one of a server that is alone. The server goes
// on with the data that its copy has; what the cluster has beyond it, or will have, is
// not in it.
func Leave(dir string, files vfs.FS) (err error) {
	const op = "pebblestore.Leave"
	if files == nil {
		files = vfs.Default
	}
	quiet := &DB{opts: Options{Logger: slog.New(slog.DiscardHandler)}}
	pdb, err := pebble.Open(dir, &pebble.Options{FS: files, Merger: rows.Merger,
		FormatMajorVersion: pebble.FormatNewest,
		Logger:             &pebbleLog{db: quiet}, EventListener: quiet.events()})
	if err != nil {
		return &fhir.Error{Kind: fhir.Unavailable, Op: op,
			Err: fault.Refusal("the store cannot be opened: " + fault.Describe(err))}
	}
	defer fault.Close(pdb, &err)
	return fault.Wrap(op, pdb.Delete(keys.Position, pebble.Sync))
}

// checkAlone refuses the copy of a cluster: commits that the cluster does not know
// would make it useless there.
func (d *DB) checkAlone() error {
	v, err := rows.Get(d.pdb, keys.Position)
	if err == nil && v != nil {
		err = fault.Refusal("the store belongs to a cluster: name the cluster's MongoDB in the settings, " +
			"or let the store leave it with `pulsegate cluster leave`")
	}
	return err
}
