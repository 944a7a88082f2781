package server

import (
	"testing"
	"time"

	"pulsegate/cmd/internal/admin"
	"pulsegate/mapping/ingest"
)

// TestRemapContinuesAfterRestart checks that a server continues a job that was running
// when the one before it ended, for the same operator.
func TestRemapContinuesAfterRestart(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	ops := operations{s}
	if _, err := ops.pipeline.BeginRemap(t.Context(), ingest.RemapRequest{Vendor: "oura",
		Caller: ops.request(operatorOfTest).Caller}); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	s = mustOpen(t, dir)
	var list admin.RemapJobs
	var err error
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		list, err = operations{s}.RemapJobs(t.Context(), operatorOfTest)
		if err != nil || len(list.Jobs) == 1 && list.Jobs[0].Status == ingest.RemapDone {
			break
		}
	}
	if err != nil || len(list.Jobs) != 1 || list.Jobs[0].Status != ingest.RemapDone || list.Jobs[0].By != "uid:0" {
		t.Errorf("%+v %v", list, err)
	}
	_, err = operations{s}.CancelRemap(t.Context(), operatorOfTest, admin.VendorName{Vendor: "Oura"})
	if err == nil {
		t.Error("a job that has ended was canceled")
	}
}
