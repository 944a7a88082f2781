// Package membership changes the cluster of a stopped server: it lets the servers go on
// from a restored log, and lets a server leave its cluster. Each change needs the id of
// the cluster as a confirmation, and is recorded in the audit trail by the next start of
// the server (package recovery).
package membership

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pulsegate/cmd/internal/admin"
	"pulsegate/cmd/internal/config"
	"pulsegate/cmd/internal/recovery"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster"
	"pulsegate/fhir/cluster/hints"
	"pulsegate/fhir/cluster/nodes"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/cluster/sealed"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/mongolog"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/proof/keys"
)

// Change is a change of a cluster that an operator orders.
type Change struct {
	Config *config.Config
	// Cluster confirms the change: the id of the cluster in hex.
	Cluster string
	By      string // the operator, such as "uid:0"
	Clock   func() time.Time
	// Quiet is the time for which Restore watches whether the log grows. Zero means
	// that of two renewals of a role, which every running cluster commits.
	Quiet time.Duration
}

// Restored is the outcome of Restore.
type Restored struct {
	Cluster string `json:"cluster"`
	Epoch   uint64 `json:"epoch"`
	// Entry is the last entry of the restored log.
	Entry uint64 `json:"entry"`
}

// Left is the outcome of Leave.
type Left struct {
	Cluster string `json:"cluster"`
	Entry   uint64 `json:"entry"` // the last one that the copy has
}

// OpenLog opens the log that the settings name.
func OpenLog(ctx context.Context, c *config.Config) (*mongolog.Log, error) {
	password, err := config.ReadSecret("mongodb-password-file", c.MongoDBPasswordFile)
	if err != nil {
		return nil, err
	}
	log, err := mongolog.Open(ctx, mongolog.Options{URI: c.MongoDB, Password: password,
		Standalone: c.MongoDBStandalone})
	if err != nil {
		return nil, fmt.Errorf("mongodb: %w", err)
	}
	return log, nil
}

// OpenRedis opens the Redis server that the settings name, for a process of the cluster.
// o has the options that the settings do not decide.
func OpenRedis(c *config.Config, id [16]byte, k sealed.Keys, o hints.Options) (r *hints.Redis, err error) {
	if o.Password, err = config.ReadSecret("redis-password-file", c.RedisPasswordFile); err != nil {
		return nil, err
	}
	o.URL, o.Cluster, o.Clock = c.Redis, id, time.Now
	o.Secret = sealed.Derive(k.Current, "pulsegate rate limits", 32)
	if r, err = hints.Open(o); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	return r, nil
}

// Restore lets the servers of a cluster go on from a log that was restored to an earlier
// state. All of them must be stopped. It refuses if it can tell that one is running.
func Restore(ctx context.Context, o Change) (out Restored, err error) {
	if o.Config.MongoDB == "" {
		return out, errors.New("mongodb: the settings name no database with the log of a cluster")
	}
	k, err := sealed.ReadKeys(o.Config.ClusterKeyFile)
	if err != nil {
		return out, err
	}
	log, err := OpenLog(ctx, o.Config)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, log.Close(context.WithoutCancel(ctx))) }()
	id, err := log.Identity(ctx)
	if err != nil {
		return out, err
	}
	if id == (sharedlog.Identity{}) {
		return out, errors.New("the database that the setting mongodb names holds no cluster")
	}
	_, last, err := log.Bounds(ctx)
	if err != nil {
		return out, err
	}
	if err := o.confirmed("restore", id.Cluster, fmt.Sprintf("of epoch %d, and its log ends with entry %d", id.Epoch,
		last)); err != nil {
		return out, err
	}
	if err := o.stopped(ctx, log, id.Cluster, k, last); err != nil {
		return out, err
	}
	// The order is on disk before it is carried out.
	now := o.Clock()
	if err := recovery.Request(o.Config.Data, recovery.ClusterRestore, o.By, now,
		[2]string{"cluster", hex.EncodeToString(id.Cluster[:])},
		[2]string{"former-epoch", strconv.FormatUint(id.Epoch, 10)},
		[2]string{"entry", strconv.FormatUint(last, 10)}); err != nil {
		return out, err
	}
	id, err = cluster.Restore(ctx, log)
	if err != nil {
		// The order stays: an answer may have been lost, and the epoch raised.
		return out, err
	}
	return Restored{Cluster: hex.EncodeToString(id.Cluster[:]), Epoch: id.Epoch, Entry: last}, nil
}

// confirmed refuses a change whose operator has not named the cluster.
func (o *Change) confirmed(verb string, id [16]byte, about string) error {
	name := hex.EncodeToString(id[:])
	if strings.EqualFold(strings.TrimSpace(o.Cluster), name) {
		return nil
	}
	again := fmt.Sprintf("to confirm, repeat the command with --cluster %s", name)
	if o.Cluster == "" {
		return admin.Advise(fmt.Errorf("this is cluster %s, %s; see `pulsegate cluster %s --help` for what the command does",
			name, about, verb), again)
	}
	return admin.Advise(fmt.Errorf("this is not cluster %.40q, but cluster %s, %s", o.Cluster, name, about), again)
}

// stopped refuses if a server of the cluster is running: if Redis has heard of one
// lately, or if the log grows.
func (o *Change) stopped(ctx context.Context, log sharedlog.Log, id [16]byte, k sealed.Keys, last uint64) error {
	const advice = "stop all servers of the cluster, and repeat the command"
	if o.Config.Redis != "" {
		r, err := OpenRedis(o.Config, id, k, hints.Options{
			Self: hints.Holder{Node: "pulsegate cluster restore"}, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return err
		}
		list, err := nodes.Beating(ctx, r)
		if err = errors.Join(err, r.Close()); err != nil {
			return fmt.Errorf("redis, which knows the running servers, cannot be asked: %w", err)
		}
		if len(list) > 0 {
			names := make([]string, len(list))
			for i, n := range list {
				names[i] = n.Name
			}
			return admin.Advise(fmt.Errorf("servers of the cluster are running, or were killed some seconds ago: %s",
				strings.Join(names, ", ")), advice)
		}
	}
	if o.Quiet <= 0 {
		o.Quiet = role.DefaultLease / 2
	}
	late := time.NewTimer(o.Quiet)
	defer late.Stop()
	t := time.NewTicker(min(o.Quiet, 250*time.Millisecond))
	defer t.Stop()
	for {
		_, now, err := log.Bounds(ctx)
		if err != nil {
			return err
		}
		if now != last {
			return admin.Advise(fmt.Errorf("a server of the cluster is running: it has just written entry %d to the log", now),
				advice)
		}
		select {
		case <-t.C:
		case <-late.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Leave makes a stopped server one that is alone, with its copy of the store and with
// copies of the keys that the servers share. What the other servers have committed since
// the server was stopped is not in its copy, and it and the cluster go separate ways.
func Leave(ctx context.Context, o Change) (out Left, err error) {
	dir := filepath.Join(o.Config.Data, "store")
	had, err := pebblestore.MembershipOf(dir, nil)
	switch {
	case err != nil:
		return out, err
	case !had.Exists:
		return out, fmt.Errorf("%s holds no store", dir)
	case had.Alone():
		return out, fmt.Errorf("%s holds the store of a server that is alone", dir)
	case o.Config.ClusterKeyFile == "":
		return out, errors.New("cluster-key-file: the keys that the servers share are sealed under this key")
	}
	k, err := sealed.ReadKeys(o.Config.ClusterKeyFile)
	if err != nil {
		return out, err
	}
	if err := o.confirmed("leave", had.Cluster, fmt.Sprintf("and the copy ends with entry %d of its log",
		had.Position.Index)); err != nil {
		return out, err
	}
	err = pebblestore.ReadClosed(dir, nil, func(st *pebblestore.ClosedState) error {
		return o.exportKeys(ctx, st, k)
	})
	if err != nil {
		return out, err
	}
	out = Left{Cluster: hex.EncodeToString(had.Cluster[:]), Entry: had.Position.Index}
	if err := recovery.Request(o.Config.Data, recovery.ClusterLeave, o.By, o.Clock(),
		[2]string{"cluster", out.Cluster}, [2]string{"entry", strconv.FormatUint(out.Entry, 10)}); err != nil {
		return out, err
	}
	if err := pebblestore.Leave(dir, nil); err != nil {
		return out, errors.Join(err, recovery.Withdraw(o.Config.Data, recovery.ClusterLeave))
	}
	return out, nil
}

// exportKeys writes the shared keys to the files of a server that is alone.
func (o *Change) exportKeys(ctx context.Context, st *pebblestore.ClosedState, k sealed.Keys) error {
	vault, err := sealed.Open(ctx, st, k)
	if err != nil {
		return err
	}
	return errors.Join(keys.Export(ctx, o.Config.Data, vault, o.Clock),
		authn.ExportKey(ctx, o.Config.Data, vault),
		audit.ExportNotary(ctx, o.Config.Data, st, vault))
}
