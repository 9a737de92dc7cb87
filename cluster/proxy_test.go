package cluster

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWithDirect(t *testing.T) {
	env := []string{"A=b", "NO_PROXY=.internal.example, 10.0.0.1", "HTTPS_PROXY=http://proxy.example:3128"}
	if !hasProxy(env) || hasProxy([]string{"HTTPS_PROXY=", "A=HTTPS_PROXY"}) {
		t.Error("a proxy is not recognized, or something else is")
	}
	want := []string{
		"A=b", "HTTPS_PROXY=http://proxy.example:3128",
		"NO_PROXY=.internal.example,10.0.0.1,one-worker-1", "no_proxy=.internal.example,10.0.0.1,one-worker-1",
	}
	if diff := cmp.Diff(want, withDirect(env, []string{"10.0.0.1", "one-worker-1"})); diff != "" {
		t.Errorf("environments differ (-want +got):\n%s", diff)
	}
}
