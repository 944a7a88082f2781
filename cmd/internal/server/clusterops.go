package server

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/cluster/nodes"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/sharedlog"
)

// inCluster returns the membership of this server, or an error if it is alone.
func (ops operations) inCluster(op string) (*member, error) {
	if ops.member == nil {
		return nil, admin.Advise(fhir.Errorf(fhir.Conflict, op, "this server is alone: it belongs to no cluster"),
			"name a MongoDB replica set in the setting mongodb, and the server founds a cluster or joins one")
	}
	return ops.member, nil
}

// ClusterStatus describes the cluster as this server sees it.
func (ops operations) ClusterStatus(ctx context.Context, op admin.Operator) (admin.Cluster, error) {
	if err := ops.record(ctx, ops.request(op), "cluster status", ""); err != nil {
		return admin.Cluster{}, err
	}
	m := ops.member
	if m == nil {
		return admin.Cluster{Alone: true}, nil
	}
	id, err := m.log.Identity(ctx)
	if err != nil {
		return admin.Cluster{}, err
	}
	out := admin.Cluster{ID: hex.EncodeToString(id.Cluster[:]), Epoch: id.Epoch, Node: m.node(),
		Entry: m.Position().Index, Commit: uint64(ops.store.LastSeq()), Redis: m.redis != nil,
		Snapshots: []admin.ClusterSnapshot{}, Differences: []nodes.Difference{}, Problems: []string{}}
	if out.Nodes, err = m.liveNodes(ctx); err != nil {
		return out, err
	}
	out.Schema = schemaOf(id.Schema, out.Nodes)
	if out.Differences, out.Roll, err = m.differences(ctx); err != nil {
		return out, err
	}
	if out.Roles, err = role.List(ctx, m.store); err != nil {
		return out, err
	}
	if out.FirstEntry, out.LastEntry, err = m.log.Bounds(ctx); err != nil {
		return out, err
	}
	if err := m.measureClock(ctx); err != nil {
		return out, err
	}
	out.ClockOffset = m.clockOffset().Seconds()
	if m.redis != nil {
		if h, ok := m.redis.Sequencer(); ok {
			out.Sequencer = &admin.ClusterSequencer{Node: h.Node, Address: h.Address}
		}
	}
	snapshots, err := m.Snapshots(ctx)
	if err != nil {
		return out, err
	}
	for _, s := range snapshots {
		out.Snapshots = append(out.Snapshots, snapshotInfo(s))
	}
	if out.Mirror, err = m.mirrorStatus(ctx); err != nil {
		return out, err
	}
	out.Problems = m.problems(&out)
	return out, nil
}

// liveNodes describes the live servers.
func (m *member) liveNodes(ctx context.Context) ([]admin.ClusterNode, error) {
	list, err := m.nodes.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	newest := uint64(0)
	for _, n := range list {
		newest = max(newest, n.Index)
	}
	self := m.self().Instance
	out := make([]admin.ClusterNode, len(list))
	for i, n := range list {
		out[i] = admin.ClusterNode{Node: n.Name, Version: n.Version, Address: n.Address, Started: n.Started,
			Entry: n.Index, Lag: newest - n.Index, Schema: n.Schema, Self: n.Instance == self}
	}
	return out, nil
}

func snapshotInfo(s *sharedlog.Manifest) admin.ClusterSnapshot {
	return admin.ClusterSnapshot{Entry: s.At.Index, Created: s.Created, Node: s.Node, Files: len(s.Files),
		Bytes: s.Bytes()}
}

// mirrorStatus describes the mirror, nil if there is none.
func (m *member) mirrorStatus(ctx context.Context) (*admin.ClusterMirror, error) {
	if m.mirror == nil {
		return nil, nil
	}
	out := &admin.ClusterMirror{Database: m.env.config.MongoDBMirror}
	s, err := m.mirror.Status(ctx)
	if err != nil {
		return nil, err
	}
	if s != nil && s.Source == m.source() {
		out.Commit, out.Updated = uint64(s.Commit), s.Updated
	}
	out.Behind, err = m.mirror.Behind(ctx, store.Seq(out.Commit))
	return out, err
}

// ClusterSnapshot makes a snapshot.
func (ops operations) ClusterSnapshot(ctx context.Context, op admin.Operator) (admin.ClusterSnapshot, error) {
	m, err := ops.inCluster("server.ClusterSnapshot")
	if err != nil {
		return admin.ClusterSnapshot{}, err
	}
	if err := ops.record(ctx, ops.request(op), "cluster snapshot", ""); err != nil {
		return admin.ClusterSnapshot{}, err
	}
	s, err := m.Snapshot(ctx)
	if err != nil {
		return admin.ClusterSnapshot{}, err
	}
	return snapshotInfo(s), nil
}

// ClusterSchema describes the encoding of the rows of the log.
func (ops operations) ClusterSchema(ctx context.Context, op admin.Operator) (admin.ClusterSchemas, error) {
	m, err := ops.inCluster("server.ClusterSchema")
	if err != nil {
		return admin.ClusterSchemas{}, err
	}
	if err := ops.record(ctx, ops.request(op), "cluster schema", ""); err != nil {
		return admin.ClusterSchemas{}, err
	}
	_, out, err := m.schemas(ctx)
	return out, err
}

func (m *member) schemas(ctx context.Context) (id sharedlog.Identity, out admin.ClusterSchemas, err error) {
	if id, err = m.log.Identity(ctx); err != nil {
		return id, out, err
	}
	out.Nodes, err = m.liveNodes(ctx)
	out.ClusterSchema = schemaOf(id.Schema, out.Nodes)
	return id, out, err
}

// schemaOf returns the schema of a cluster that writes one and has some live servers.
func schemaOf(written uint32, live []admin.ClusterNode) admin.ClusterSchema {
	s := admin.ClusterSchema{Written: written}
	for i, n := range live {
		if i == 0 || n.Schema < s.Read {
			s.Read = n.Schema
		}
	}
	return s
}

// RaiseClusterSchema lets the servers write the newest schema that all live ones read.
func (ops operations) RaiseClusterSchema(ctx context.Context, op admin.Operator) (admin.ClusterSchemas, error) {
	const name = "server.RaiseClusterSchema"
	m, err := ops.inCluster(name)
	if err != nil {
		return admin.ClusterSchemas{}, err
	}
	old, out, err := m.schemas(ctx)
	if err != nil {
		return out, err
	}
	if err := raisable(out); err != nil {
		return out, err
	}
	now := old
	now.Schema = out.Read
	if err := ops.commit(ctx, op, "cluster schema raise", [][2]string{
		{"from", strconv.FormatUint(uint64(old.Schema), 10)}, {"to", strconv.FormatUint(uint64(now.Schema), 10)},
	}); err != nil {
		return out, err
	}
	ok, err := m.log.SetIdentity(ctx, old, now)
	if err == nil && !ok {
		err = fhir.Errorf(fhir.Conflict, name,
			"another command changed the cluster at the same moment; repeat the command")
	}
	if err != nil {
		return out, err
	}
	if err := m.announceSchema(ctx, now.Schema); err != nil {
		return out, err
	}
	out.Written, out.Raised = now.Schema, true
	return out, nil
}

// announceSchema writes an entry in a new schema, from which the other servers learn it. It
// is not sent to the sequencer, which does not know the schema yet. If it fails, they learn
// it after some seconds.
func (m *member) announceSchema(ctx context.Context, schema uint32) error {
	if err := m.RaiseSchema(schema); err != nil {
		return err
	}
	_, err := m.DB.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: "cluster/schema",
		Value: fmt.Appendf(nil, `{"schema":%d,"node":%q}`, schema, m.node())}}})
	return err
}

// raisable refuses to raise the schema above what a live server reads.
func raisable(s admin.ClusterSchemas) error {
	if s.Read > s.Written {
		return nil
	}
	var holding []string
	newer := false
	for _, n := range s.Nodes {
		if n.Schema == s.Read {
			holding = append(holding, n.Node)
		} else {
			newer = true
		}
	}
	text := fmt.Sprintf("there is nothing to raise: the cluster writes schema %d, and no live server reads a newer one",
		s.Written)
	if newer {
		text = fmt.Sprintf("the cluster writes schema %d, and %s read no newer one than %d", s.Written,
			strings.Join(holding, ", "), s.Read)
	}
	return admin.Advise(fhir.Errorf(fhir.Conflict, "server.RaiseClusterSchema", "%s", text),
		"install the new version on all servers first")
}
