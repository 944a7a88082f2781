package role

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/memlog"
)

// TestOverLog gives a role to processes with stores that share a log. The holder loses
// the log: its work ends before another begins, and after it has the log again, it can
// write nothing in its former term.
func TestOverLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := memlog.New(memlog.Options{})
		identity := sharedlog.Identity{Cluster: [16]byte{1}, Epoch: 1, Schema: pebblestore.RowSchema}
		ok, err := log.Client("operator").SetIdentity(context.Background(), sharedlog.Identity{}, identity)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		var clients []*memlog.Client
		var dbs []*pebblestore.DB
		var ps []*process
		j := &journal{}
		for _, node := range []string{"a", "b"} {
			client := log.Client(node)
			db, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem(), CacheBytes: 8 << 20,
				Shared: &pebblestore.Shared{Log: client, Node: node, Identity: identity}})
			if err != nil {
				t.Fatal(err)
			}
			p := newProcess(t, db, node)
			clients, dbs, ps = append(clients, client), append(dbs, db), append(ps, p)
			j.start(p, "x")
			pass(time.Second)
		}
		pass(time.Minute)
		old := only(t, j.running())
		if old.p != ps[0] {
			t.Fatal("the second process has the role")
		}
		clients[0].Hang()
		pass(3 * testLease)
		jobs := j.list()
		if len(jobs) != 2 || jobs[0].ended.IsZero() || jobs[0].ended.After(jobs[1].began) {
			t.Errorf("jobs %+v", jobs)
		}
		clients[0].Heal()
		pass(testLease)
		if err := put(old.term.Store(dbs[0]), "late"); fhir.KindOf(err) != fhir.Conflict || has(t, dbs[0], "late") {
			t.Errorf("a commit of the former term: %v", err)
		}
		if err := put(jobs[1].term.Store(dbs[1]), "next"); err != nil {
			t.Error(err)
		}
		if err := dbs[0].Sync(t.Context()); err != nil || !has(t, dbs[0], "next") {
			t.Errorf("what the holder has written is not there: %v", err)
		}
		if now := only(t, j.running()); now.p != ps[1] {
			t.Error("the first process has the role again")
		}
		for i, p := range ps {
			p.kill()
			p.wg.Wait()
			if err := dbs[i].Close(); err != nil {
				t.Error(err)
			}
		}
		pass(2 * testLease)
	})
}
