package relay

import (
	"context"
	"syscall"
	"testing"
	"time"

	"pulsegate/fhir/store"
)

// instant is a store whose commits succeed at once.
type instant struct{ Local }

func (instant) Commit(_ context.Context, b *store.Batch) (store.Result, error) {
	r := store.Result{Outcomes: make([]store.Outcome, len(b.Writes))}
	for i := range r.Outcomes {
		r.Outcomes[i] = store.Outcome{Ref: b.Writes[i].Resource.Ref(), Version: 1, JSON: []byte("{}")}
	}
	return r, nil
}

func (instant) LastSeq() store.Seq                     { return 0 }
func (instant) Watch(func(store.Commit)) (stop func()) { return func() {} }

// BenchmarkCommit measures the relay alone, both sides of it: a commit of one document
// and one leaf of audit-event size. cpu-us/op is the processor time of both.
func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 16, 128} {
		b.Run(map[int]string{1: "writers=1", 16: "writers=16", 128: "writers=128"}[writers], func(b *testing.B) {
			tr := trust(b, clusterKeys(b, 1), time.Now)
			p := newProcess(b, "sequencer", instant{}, tr, nil)
			q := newProcess(b, "other", instant{}, tr, nil).follow(p.holder)
			batch := put("x")
			batch.Writes[0].Resource.JSON = append(batch.Writes[0].Resource.JSON, make([]byte, 1000)...)
			batch.Leaves = []store.Leaf{make([]byte, 300)}
			var before, after syscall.Rusage
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
			b.SetParallelism(writers)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := q.Commit(context.Background(), batch); err != nil {
						b.Error(err)
						return
					}
				}
			})
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
			cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(cpu)/1e3/float64(b.N), "cpu-us/op")
		})
	}
}
