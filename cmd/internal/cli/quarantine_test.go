package cli

import (
	"testing"

	"pulsegate/cmd/internal/admin"
)

// TestByComponent checks that components which were left out are counted separately
// from whole samples of the metric.
func TestByComponent(t *testing.T) {
	got := byReason([]admin.QuarantineItem{
		{ID: "1", Reason: "bad-value", Vendor: "apple", Metric: "M", Count: 1},
		{ID: "2", Reason: "bad-value", Vendor: "apple", Metric: "M", Component: "c", Count: 2},
		{ID: "3", Reason: "bad-value", Vendor: "apple", Metric: "M", Component: "c", Count: 1},
	})
	if len(got) != 2 || *got[0] != (reasonGroup{"bad-value", "apple", "M (only c)", "2", 2, 3}) ||
		*got[1] != (reasonGroup{"bad-value", "apple", "M", "1", 1, 1}) {
		t.Errorf("got %+v, %+v", got[0], got[len(got)-1])
	}
}
