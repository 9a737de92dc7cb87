package cluster

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCheckSkew(t *testing.T) {
	for _, test := range []struct {
		controlPlane, worker, reason string
	}{
		{controlPlane: "v1.34.10", worker: "v1.34.10"},
		{controlPlane: "v1.34.1", worker: "v1.34.10"},
		{controlPlane: "v1.34.10", worker: "v1.31.0"},
		{controlPlane: "v1.30.1", worker: "v1.28.0"},
		{controlPlane: "v1.35.0-rc.0", worker: "v1.34.0"},
		{controlPlane: "v1.34.10", worker: "v1.35.0", reason: "must not be newer"},
		{controlPlane: "v1.34.10", worker: "v2.0.0", reason: "must not be newer"},
		{controlPlane: "v1.35.0", worker: "v1.31.9", reason: "three minor releases"},
		{controlPlane: "v1.31.0", worker: "v1.30.9", reason: "only kubeadm v1.31"},
		{controlPlane: "v1.34.10", worker: "latest", reason: "image: found \"latest\""},
		{controlPlane: "", worker: "v1.34.10", reason: "of the control plane"},
	} {
		err := checkSkew("image", test.controlPlane, test.worker)
		if test.reason == "" && err != nil || test.reason != "" && (err == nil || !strings.Contains(err.Error(), test.reason)) {
			t.Errorf("control plane %q, worker %q: want %q, got %v", test.controlPlane, test.worker, test.reason, err)
		}
	}
}

func TestWorkerNumbers(t *testing.T) {
	for name, want := range map[string]int{"a-worker-1": 1, "a-worker-12": 12, "a-worker-0": 0, "a-worker-01": 0, "a-worker-": 0, "a-worker-+1": 0, "a-b-worker-1": 0,
		"a-control-plane-1": 0, "1": 0, "": 0} {
		if number, ok := workerNumber("a", name); ok != (want > 0) || ok && number != want {
			t.Errorf("%q: got %d, %v; want %d", name, number, ok, want)
		}
	}
	workers := []worker{{number: 2}, {number: 4}, {number: 5}}
	for count, want := range map[int][]int{-1: nil, 0: nil, 1: {1}, 2: {1, 3}, 3: {1, 3, 6}} {
		if got := freeNumbers(workers, count); !slices.Equal(got, want) {
			t.Errorf("%d free numbers: got %v, want %v", count, got, want)
		}
	}
}

// nodesText is what kubectl v1.34 prints, without what is not read.
const nodesText = `{"apiVersion": "v1", "kind": "List", "items": [
{"metadata": {"name": "one"}, "spec": {"taints": [{"effect": "NoSchedule", "key": "node-role.kubernetes.io/control-plane"}]}, "status": {
  "conditions": [{"type": "MemoryPressure", "status": "False", "lastHeartbeatTime": "2026-01-02T03:04:00Z"},
    {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-02T03:04:05Z"}], "nodeInfo": {"kubeletVersion": "v1.34.10"}}},
{"metadata": {"name": "two"}, "spec": {}, "status": {
  "conditions": [{"type": "Ready", "status": "Unknown", "lastHeartbeatTime": "2026-01-02T03:04:05Z"}], "nodeInfo": {"kubeletVersion": "v1.33.6"}}},
{"metadata": {"name": "new"}, "spec": {}, "status": {}}]}`

func TestNotReady(t *testing.T) {
	known, err := parseNodes(nodesText)
	if err != nil {
		t.Fatal(err)
	}
	if one, two := known["one"], known["two"]; !one.ready || !slices.Equal(one.reserved, []string{controlPlaneTaint + "=:NoSchedule"}) || one.version != "v1.34.10" ||
		two.ready || len(two.reserved) > 0 || two.version != "v1.33.6" {
		t.Errorf("%+v", known)
	}
	said := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		name, want string
		nodes      []*member
	}{
		{name: "any time", nodes: []*member{{name: "one"}}},
		{name: "the same second", nodes: []*member{{name: "one", started: said.Add(900 * time.Millisecond)}}},
		{name: "only before it was started", nodes: []*member{{name: "one", started: said.Add(time.Second)}}, want: "one"},
		{name: "not Ready or not known", nodes: []*member{{name: "two"}, {name: "one"}, {name: "new"}, {name: "absent"}}, want: "two new absent"},
	} {
		if got := strings.Join(names(notReady(known, test.nodes)), " "); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
	if _, err := parseNodes("no JSON"); err == nil {
		t.Error("something else than a list was read")
	}
}
