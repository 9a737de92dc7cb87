package vm

import (
	"os"
	"strings"
	"testing"
)

// TestMachineIsWhatUsersHave boots the machine and looks at what the end-to-end test relies on. The script ends with a status of its
// own, which has to come back.
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
	if err == nil || !strings.Contains(err.Error(), "fail 3") {
		t.Errorf("got error %v, want one that names the exit status 3", err)
	}
	for _, want := range []string{"a file beside the script", "a disk of the host", "cgroup v2", "capability sys_resource", "no network", "docker v2"} {
		if !strings.Contains(log, want+"\n") {
			t.Errorf("the script's output lacks %q", want)
		}
	}
}
