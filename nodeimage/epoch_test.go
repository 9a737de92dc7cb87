package nodeimage

import (
	"testing"
	"time"
)

// TestEpochOfSources holds that "nodeimg lock" resolves as "nodeimg build" does: digests of what is made depend on the time.
func TestEpochOfSources(t *testing.T) {
	given := time.Unix(1_700_000_000, 0)
	for _, test := range []struct{ epoch, want time.Time }{{time.Time{}, DefaultEpoch}, {given, given}} {
		if got := SourceOptions(Options{Epoch: test.epoch}).Epoch; !got.Equal(test.want) {
			t.Errorf("epoch %v: sources are made at %v, want %v", test.epoch, got, test.want)
		}
	}
}
