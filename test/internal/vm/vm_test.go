package vm

import (
	"os"
	"strings"
	"testing"
)

// TestMachineIsWhatUsersHave boots the machine and looks at what the end-to-end test relies on.
func TestMachineIsWhatUsersHave(t *testing.T) {
	script, err := os.ReadFile("testdata/look.sh")
	if err != nil {
		t.Fatal(err)
	}
	log, err := Run(t.Context(), Options{
		Script: script,
		Files:  map[string][]byte{"greeting": []byte("a file beside the script\n")},
		Disks:  map[string]string{"archive": "testdata/archive"},
		Output: t.Output(),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a file beside the script", "a disk of the host", "cgroup v2", "capability sys_resource", "no network"} {
		if !strings.Contains(log, want+"\n") {
			t.Errorf("the script's output lacks %q", want)
		}
	}
}

func TestScriptThatFails(t *testing.T) {
	log, err := Run(t.Context(), Options{Script: []byte("#!/bin/sh\necho before\nexit 3\n"), MemoryMiB: 1024})
	if err == nil || !strings.Contains(err.Error(), "fail 3") {
		t.Errorf("got error %v, want one that names the exit status 3", err)
	}
	if !strings.Contains(log, "before\n") {
		t.Errorf("got output %q, want the script's", log)
	}
}
