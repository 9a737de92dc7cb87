package conformance

import "testing"

// TestReferences holds that the table is as nasty as it says: containerd itself takes every image but those that it is known to refuse.
func TestReferences(t *testing.T) {
	known := mustKnow(t)
	for _, r := range table {
		e := known.rows[r.name]
		if refused := e.refusal != ""; refused != r.refused {
			t.Errorf("%s: containerd refuses it: %v, want %v: %s", r.name, refused, r.refused, e.refusal)
		}
		if impossible := e.tree == nil; impossible != r.impossible {
			t.Errorf("%s: no snapshotter takes it: %v, want %v: %s", r.name, impossible, r.impossible, e.refusal)
		}
		if !r.impossible && len(e.tree) < 2 {
			t.Errorf("%s: containerd shows only %v", r.name, e.tree)
		}
	}
}
