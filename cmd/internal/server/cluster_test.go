package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"pulsegate/cmd/internal/admin"
	"pulsegate/cmd/internal/membership"
	"pulsegate/cmd/internal/recovery"
	"pulsegate/fhir"
	"pulsegate/fhir/cluster/hints/redistest"
	"pulsegate/fhir/cluster/nodes"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/store/sharedlog/mongolog/mongotest"
)

// leaseOfTest is the length of the leases in these tests.
const leaseOfTest = 2 * time.Second

// patience bounds the waits of these tests.
const patience = 2 * time.Minute

// fleet is a cluster of servers over one database.
type fleet struct {
	t     *testing.T
	mongo mongotest.Database
	set   map[string]string // settings of all servers
	clock func() time.Time  // of the servers that are started next; nil is time.Now
	lease time.Duration     // of the roles
}

// newFleet returns a cluster without servers. redis is the URL of a Redis server or "".
func newFleet(t *testing.T, redis string) *fleet {
	t.Helper()
	f := &fleet{t: t, mongo: mongotest.New(t), lease: leaseOfTest}
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	f.set = map[string]string{"mongodb": f.mongo.URI, "redis": redis, "base-url": "http://localhost:8080",
		"cluster-key-file": write("key", base64.StdEncoding.EncodeToString(key))}
	if f.mongo.Standalone {
		f.set["mongodb-standalone"] = "true"
	}
	if f.mongo.Password != "" {
		f.set["mongodb-password-file"] = write("password", f.mongo.Password)
	}
	return f
}

// sailor is one server of a fleet.
type sailor struct {
	*services
	dir  string
	url  string // of the listener
	log  *lockedBuffer
	stop func() error
}

// start starts a server with its data in dir, a new directory if it is empty.
func (f *fleet) start(name, dir string, set map[string]string) *sailor {
	f.t.Helper()
	s, err := f.tryStart(name, dir, set)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func (f *fleet) tryStart(name, dir string, set map[string]string) (*sailor, error) {
	f.t.Helper()
	if dir == "" {
		dir = filepath.Join(f.t.TempDir(), "data")
	}
	all := maps.Clone(f.set)
	all["node"] = name
	maps.Copy(all, set)
	s := &sailor{dir: dir, log: &lockedBuffer{}}
	ready := make(chan struct{})
	m := &Main{Config: settings(f.t, dir, all), Version: versionOfTest, lease: f.lease, clock: f.clock,
		Log: slog.New(slog.NewTextHandler(io.MultiWriter(s.log, f.t.Output()), nil)),
		opened: func(opened *services, addr net.Addr) {
			s.services, s.url = opened, "http://"+addr.String()
		},
		Stdout: writerFunc(func(p []byte) (int, error) {
			if strings.Contains(string(p), "pulsegate ready ") {
				close(ready)
			}
			return len(p), nil
		})}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	s.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	select {
	case <-ready:
		f.t.Cleanup(func() {
			if err := s.stop(); err != nil {
				f.t.Error(err)
			}
		})
		return s, nil
	case err := <-ended:
		cancel()
		return nil, err
	}
}

// end stops the server.
func (s *sailor) end(t *testing.T) {
	t.Helper()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
}

func (s *sailor) ops() operations { return operations{s.services} }

func (s *sailor) status(t *testing.T) admin.Cluster {
	t.Helper()
	if err := s.store.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	out, err := s.ops().ClusterStatus(t.Context(), operatorOfTest)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// add adds a patient.
func (s *sailor) add(t *testing.T, id string) {
	t.Helper()
	if _, err := s.ops().AddPatient(t.Context(), operatorOfTest, admin.NewPatient{ID: id, Given: id,
		Family: "Beispiel"}); err != nil {
		t.Fatal(err)
	}
}

// patients returns the ids of the patients that the server shows after Sync.
func (s *sailor) patients(t *testing.T) (ids []string) {
	t.Helper()
	if err := s.store.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, err := s.ops().ListPatients(t.Context(), operatorOfTest)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Patients {
		ids = append(ids, p.ID)
	}
	slices.Sort(ids)
	return ids
}

// get returns the status of GET path, with a new connection.
func (s *sailor) get(t *testing.T, path string) int {
	t.Helper()
	rq, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	rq.Close = true
	resp, err := http.DefaultClient.Do(rq)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// until waits until ok returns true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("it does not happen that %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func names(list []admin.ClusterNode) (out []string) {
	for _, n := range list {
		out = append(out, n.Node)
	}
	return out
}

func TestClusterCommands(t *testing.T) {
	f := newFleet(t, redistest.URL(t))
	one, two := f.start("one", "", nil), f.start("two", "", nil)
	one.add(t, "ada")
	var s admin.Cluster
	until(t, "both servers are listed and have roles", func() bool {
		s = two.status(t)
		return slices.Equal(names(s.Nodes), []string{"one", "two"}) && len(s.Roles) > 0
	})
	if s.Alone || len(s.ID) != 32 || s.Epoch != 1 || s.Node != "two" || s.Schema.Written != s.Schema.Read ||
		!s.Redis || s.Mirror != nil || s.Nodes[0].Self || !s.Nodes[1].Self || s.LastEntry < s.Entry || s.Entry == 0 {
		t.Errorf("%+v", s)
	}
	if first := one.status(t); first.ID != s.ID || first.Node != "one" {
		t.Errorf("the servers disagree: %+v", first)
	}
	for _, h := range s.Roles {
		if h.Node != "one" && h.Node != "two" && h.Node != "" {
			t.Errorf("role %s is held by %q", h.Role, h.Node)
		}
	}

	made, err := two.ops().ClusterSnapshot(t.Context(), operatorOfTest)
	if err != nil {
		t.Fatal(err)
	}
	if made.Node != "two" || made.Entry < s.Entry || made.Files == 0 || made.Bytes == 0 {
		t.Errorf("%+v", made)
	}
	if got := one.status(t).Snapshots; len(got) == 0 || got[0] != made {
		t.Errorf("snapshots: %+v, want %+v", got, made)
	}
	three := f.start("three", "", nil)
	if !strings.Contains(three.log.String(), "joining from a snapshot") {
		t.Error("the third server did not join from the snapshot")
	}
	if got := three.patients(t); !slices.Equal(got, []string{"ada"}) {
		t.Errorf("the third server shows %q", got)
	}
	if events(t, three.services, "cluster-snapshot") != 1 || events(t, three.services, "cluster-status") == 0 {
		t.Error("the commands are not in the audit trail")
	}
}

func TestClusterSchema(t *testing.T) {
	f := newFleet(t, "")
	one := f.start("one", "", nil)
	ctx := t.Context()
	before, err := one.ops().ClusterSchema(ctx, operatorOfTest)
	if err != nil || before.Written == 0 || before.Written != before.Read || before.Raised {
		t.Fatalf("%+v, %v", before, err)
	}
	raise := func() (admin.ClusterSchemas, error) { return one.ops().RaiseClusterSchema(ctx, operatorOfTest) }
	if out, err := raise(); fhir.KindOf(err) != fhir.Conflict {
		t.Errorf("raised to %d without a newer schema: %v", out.Written, err)
	}
	// The cluster was founded by an earlier version.
	id, err := one.member.log.Identity(ctx)
	if err != nil {
		t.Fatal(err)
	}
	older := id
	older.Schema--
	if ok, err := one.member.log.SetIdentity(ctx, id, older); !ok || err != nil {
		t.Fatal(ok, err)
	}
	reads := older.Schema
	old := nodes.New(nodes.Options{State: one.store, Clock: time.Now, Self: func() nodes.Node {
		return nodes.Node{Name: "old", Instance: "old", Schema: reads}
	}})
	if err := old.Beat(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := raise(); fhir.KindOf(err) != fhir.Conflict || !strings.Contains(err.Error(), "old") {
		t.Errorf("raised although a server does not read it: %v", err)
	}
	reads = id.Schema // it is updated
	if err := old.Beat(ctx); err != nil {
		t.Fatal(err)
	}
	after, err := raise()
	if err != nil || !after.Raised || after.Written != id.Schema {
		t.Fatalf("%+v, %v", after, err)
	}
	if now, err := one.member.log.Identity(ctx); err != nil || now != id {
		t.Errorf("the cluster is %+v, want %+v; %v", now, id, err)
	}
	if n := events(t, one.services, "cluster-schema-raise"); n != 1 {
		t.Errorf("%d records", n)
	}
}

func TestClusterWithoutRedis(t *testing.T) {
	f := newFleet(t, "")
	one, two := f.start("one", "", nil), f.start("two", "", nil)
	one.add(t, "ada")
	if got := two.patients(t); !slices.Equal(got, []string{"ada"}) {
		t.Errorf("the other server shows %q", got)
	}
	two.add(t, "ben")
	if got := one.patients(t); !slices.Equal(got, []string{"ada", "ben"}) {
		t.Errorf("the first server shows %q", got)
	}
	until(t, "both servers are listed", func() bool {
		return slices.Equal(names(one.status(t).Nodes), []string{"one", "two"})
	})
	if s := one.status(t); s.Redis || s.Sequencer != nil {
		t.Errorf("%+v", s)
	}
}

// cable is a TCP proxy that can be cut.
type cable struct {
	addr string
	mu   sync.Mutex
	cut  bool
	open map[net.Conn]bool
}

// newCable listens, and forwards connections to an address.
func newCable(t *testing.T, to string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{addr: l.Addr().String(), open: map[net.Conn]bool{}}
	var work sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		c.sever(true)
		work.Wait()
	})
	work.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil || !c.add(in, out) {
				_ = in.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
				work.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					_, _ = pair[0].Close(), pair[1].Close()
				})
			}
		}
	})
	return c
}

func (c *cable) add(conns ...net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range conns {
		if c.cut {
			_ = one.Close()
		} else {
			c.open[one] = true
		}
	}
	return !c.cut
}

// sever cuts the cable, or mends it.
func (c *cable) sever(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = cut
	for one := range c.open {
		_ = one.Close()
	}
	clear(c.open)
}

// TestClusterLosesMongoDB cuts one of two servers off from MongoDB. To the other one it
// is as if it had been killed.
func TestClusterLosesMongoDB(t *testing.T) {
	f := newFleet(t, "")
	if !f.mongo.Standalone {
		t.Skip("a driver finds the members of a replica set without the cable")
	}
	rest := strings.TrimPrefix(f.mongo.URI, "mongodb://")
	host, database, _ := strings.Cut(rest, "/")
	c := newCable(t, host)
	one := f.start("one", "", map[string]string{"mongodb": "mongodb://" + c.addr + "/" + database})
	held := func(s *sailor, by string) bool {
		list, err := role.List(t.Context(), s.store)
		return err == nil && slices.ContainsFunc(list, func(h role.Holder) bool {
			return h.Role == "snapshots" && h.Node == by
		})
	}
	until(t, "the first server has the role", func() bool { return held(one, "one") })
	two := f.start("two", "", nil)
	if code := one.get(t, "/readyz"); code != http.StatusOK {
		t.Errorf("/readyz: status %d", code)
	}
	c.sever(true)
	for _, path := range []string{"/readyz", "/fhir/metadata"} {
		until(t, path+" is refused", func() bool { return one.get(t, path) == http.StatusServiceUnavailable })
	}
	if code := one.get(t, "/livez"); code != http.StatusOK {
		t.Errorf("/livez: status %d", code)
	}
	until(t, "the second server takes the role", func() bool { return held(two, "two") })
	two.add(t, "ada")
	if code := two.get(t, "/fhir/metadata"); code != http.StatusOK {
		t.Errorf("the second server: status %d", code)
	}
	c.sever(false)
	for _, path := range []string{"/fhir/metadata", "/readyz"} {
		until(t, path+" is answered", func() bool { return one.get(t, path) == http.StatusOK })
	}
	if got := one.patients(t); !slices.Equal(got, []string{"ada"}) {
		t.Errorf("the first server shows %q", got)
	}
}

// database returns a database of the fleet's MongoDB.
func (f *fleet) database(name string) *mongo.Database {
	f.t.Helper()
	o := options.Client().ApplyURI(f.mongo.URI)
	if o.Auth != nil {
		o.Auth.Password, o.Auth.PasswordSet = f.mongo.Password, true
	}
	c, err := mongo.Connect(o)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = c.Disconnect(context.Background()) })
	return c.Database(name)
}

// logDatabase returns the name of the database of the log.
func (f *fleet) logDatabase() string {
	uri, _, _ := strings.Cut(f.mongo.URI, "?")
	return uri[strings.LastIndexByte(uri, '/')+1:]
}

// backup copies all collections, and returns a function that puts them back.
func (f *fleet) backup() (restore func()) {
	f.t.Helper()
	db := f.database(f.logDatabase())
	ctx := f.t.Context()
	all := map[string][]any{}
	names, err := db.ListCollectionNames(ctx, bson.D{})
	if err != nil {
		f.t.Fatal(err)
	}
	for _, name := range names {
		cur, err := db.Collection(name).Find(ctx, bson.D{})
		if err != nil {
			f.t.Fatal(err)
		}
		var docs []bson.D
		if err := cur.All(ctx, &docs); err != nil {
			f.t.Fatal(err)
		}
		for _, d := range docs {
			all[name] = append(all[name], d)
		}
	}
	return func() {
		f.t.Helper()
		names, err := db.ListCollectionNames(ctx, bson.D{})
		if err != nil {
			f.t.Fatal(err)
		}
		for _, name := range names {
			if err := db.Collection(name).Drop(ctx); err != nil {
				f.t.Fatal(err)
			}
			if len(all[name]) == 0 {
				continue
			}
			if _, err := db.Collection(name).InsertMany(ctx, all[name]); err != nil {
				f.t.Fatal(err)
			}
		}
	}
}

func TestClusterRestore(t *testing.T) {
	f := newFleet(t, redistest.URL(t))
	one := f.start("one", "", nil)
	one.add(t, "ada")
	if _, err := one.ops().ClusterSnapshot(t.Context(), operatorOfTest); err != nil {
		t.Fatal(err)
	}
	restore := f.backup()
	one.add(t, "ben")
	size := one.store.Log().Size()
	until(t, "a checkpoint covers the patient after the backup", func() bool {
		lines := strings.Split(string(one.audit.notary.Checkpoint()), "\n")
		n, err := strconv.ParseUint(lines[min(1, len(lines)-1)], 10, 64)
		return err == nil && n >= size
	})
	id := one.status(t).ID
	change := membership.Change{Config: one.config, By: "uid:7", Clock: time.Now, Quiet: time.Millisecond}
	if _, err := membership.Restore(t.Context(), change); err == nil || !strings.Contains(err.Error(), id) {
		t.Errorf("without a confirmation: %v", err)
	}
	change.Cluster = id
	running := change
	running.Quiet = patience
	until(t, "Redis has heard of the server", func() bool {
		_, err := membership.Restore(t.Context(), running)
		return err != nil && strings.Contains(err.Error(), "are running")
	})
	one.end(t)
	restore()
	if _, err := f.tryStart("one", one.dir, nil); err == nil {
		t.Fatal("the server started with a copy of a later state")
	}
	done, err := membership.Restore(t.Context(), change)
	if err != nil || done.Epoch != 2 || done.Cluster != id {
		t.Fatalf("%+v, %v", done, err)
	}
	one = f.start("one", one.dir, nil)
	if got := one.patients(t); !slices.Equal(got, []string{"ada"}) {
		t.Errorf("after the restore, the server shows %q", got)
	}
	if s := one.status(t); s.Epoch != 2 || s.ID != id {
		t.Errorf("%+v", s)
	}
	if all, by := events(t, one.services, "cluster-restore"), events(t, one.services, "cluster-restore",
		"uid:7"); all != 2 || by != 1 {
		t.Errorf("%d records of the restore, %d with the operator", all, by)
	}
	if d, err := recovery.Requested(one.dir, recovery.ClusterRestore); d != nil || err != nil {
		t.Errorf("the order is still there: %v, %v", d, err)
	}
}

// TestClusterRestoreWhileItRuns relies on the log alone, which grows while a server runs.
func TestClusterRestoreWhileItRuns(t *testing.T) {
	f := newFleet(t, "")
	one := f.start("one", "", nil)
	change := membership.Change{Config: one.config, By: "uid:7", Clock: time.Now, Quiet: patience,
		Cluster: one.status(t).ID}
	if _, err := membership.Restore(t.Context(), change); err == nil ||
		!strings.Contains(err.Error(), "has just written entry") {
		t.Errorf("got %v", err)
	}
	if s := one.status(t); s.Epoch != 1 {
		t.Errorf("epoch %d", s.Epoch)
	}
}

func TestClusterLeave(t *testing.T) {
	f := newFleet(t, "")
	one, two := f.start("one", "", nil), f.start("two", "", nil)
	one.add(t, "ada")
	if got := two.patients(t); !slices.Equal(got, []string{"ada"}) {
		t.Fatalf("the other server shows %q", got)
	}
	published, err := two.keys.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	sealedText := two.people.vault.Seal("test", []byte("secret"))
	verifier, id := two.audit.notary.Verifier(), two.status(t).ID
	alone := map[string]string{"mongodb": "", "redis": "", "mongodb-standalone": "false", "mongodb-password-file": ""}
	two.end(t)
	if _, err := f.tryStart("two", two.dir, alone); err == nil ||
		!strings.Contains(err.Error(), "pulsegate cluster leave") {
		t.Errorf("the copy of a cluster started alone: %v", err)
	}
	change := membership.Change{Config: two.config, By: "uid:7", Clock: time.Now}
	if _, err := membership.Leave(t.Context(), change); err == nil || !strings.Contains(err.Error(), id) {
		t.Errorf("without a confirmation: %v", err)
	}
	change.Cluster = id
	other := *two.config
	other.ClusterKeyFile = newFleet(t, "").set["cluster-key-file"]
	wrong := change
	wrong.Config = &other
	if _, err := membership.Leave(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), "cluster key") {
		t.Errorf("with another cluster key: %v", err)
	}
	if _, err := membership.Leave(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	if _, err := membership.Leave(t.Context(), change); err == nil {
		t.Error("left twice")
	}
	two = f.start("two", two.dir, alone)
	two.add(t, "ben")
	if got := two.patients(t); !slices.Equal(got, []string{"ada", "ben"}) {
		t.Errorf("after it has left, the server shows %q", got)
	}
	if got := one.patients(t); !slices.Equal(got, []string{"ada"}) {
		t.Errorf("the cluster shows %q", got)
	}
	if now, err := two.keys.JWKS(); err != nil || !bytes.Equal(now, published) {
		t.Errorf("the server has other signing keys: %v", err)
	}
	if plain, err := two.people.vault.Open("test", sealedText); err != nil || string(plain) != "secret" {
		t.Errorf("the server has another seal key: %v", err)
	}
	if two.audit.notary.Verifier() != verifier {
		t.Error("the server has another audit key")
	}
	if n := events(t, two.services, "cluster-leave", "uid:7"); n != 1 {
		t.Errorf("%d records", n)
	}
	if s := two.status(t); !s.Alone {
		t.Errorf("%+v", s)
	}
}

// TestClusterFounded founds a cluster with a server that was alone, lets the server leave,
// get new signing keys, and found another cluster with another cluster key: the servers of a
// cluster have the keys that its founder had.
func TestClusterFounded(t *testing.T) {
	var f *fleet
	alone := map[string]string{"mongodb": "", "redis": "", "mongodb-standalone": "false", "mongodb-password-file": ""}
	dir := ""
	for _, name := range []string{"first", "second"} {
		f = newFleet(t, "")
		one := f.start("one", dir, alone)
		dir = one.dir
		one.add(t, name)
		published, err := one.keys.JWKS()
		if err != nil {
			t.Fatal(err)
		}
		sealedText := one.people.vault.Seal("test", []byte("secret"))
		verifier := one.audit.notary.Verifier()
		one.end(t)
		one = f.start("one", dir, nil)
		two := f.start("two", "", nil)
		for _, s := range []*sailor{one, two} {
			if now, err := s.keys.JWKS(); err != nil || !bytes.Equal(now, published) {
				t.Errorf("%s cluster: other signing keys: %v", name, err)
			}
			if plain, err := s.people.vault.Open("test", sealedText); err != nil || string(plain) != "secret" {
				t.Errorf("%s cluster: another seal key: %v", name, err)
			}
			if s.audit.notary.Verifier() != verifier {
				t.Errorf("%s cluster: another audit key", name)
			}
			if got := s.patients(t); !slices.Contains(got, name) {
				t.Errorf("%s cluster: patients %q", name, got)
			}
		}
		id := one.status(t).ID
		one.end(t)
		if _, err := membership.Leave(t.Context(), membership.Change{Config: one.config, By: "uid:7", Clock: time.Now,
			Cluster: id}); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(dir, "keys", "*.jwk"))
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, file := range files { // the server makes new signing keys
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestClusterMirror(t *testing.T) {
	f := newFleet(t, "")
	name := f.logDatabase() + "_m"
	db := f.database(name)
	t.Cleanup(func() {
		if err := db.Drop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if _, err := f.tryStart("one", "", map[string]string{"mongodb-mirror": f.logDatabase()}); err == nil ||
		!strings.Contains(err.Error(), "mongodb-mirror") {
		t.Errorf("a mirror in the database of the log: %v", err)
	}
	one := f.start("one", "", map[string]string{"mongodb-mirror": name})
	one.add(t, "ada")
	until(t, "the patient is in the mirror", func() bool {
		var doc bson.M
		err := db.Collection("Patient").FindOne(t.Context(), bson.D{{Key: "_id", Value: "ada"}}).Decode(&doc)
		return err == nil && doc["resourceType"] == "Patient"
	})
	until(t, "the mirror is up to date", func() bool {
		m := one.status(t).Mirror
		return m != nil && m.Database == name && m.Commit > 0 && m.Behind == 0 && !m.Updated.IsZero()
	})
}
