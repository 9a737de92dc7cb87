package dockerengine

import (
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/cluster/doctor"
)

// TestDoctor examines Engines with either image store; one of them is told of a Sysbox whose daemons do not run.
func TestDoctor(t *testing.T) {
	for _, test := range []struct {
		name   string
		flags  []string
		store  string
		sysbox doctor.State
	}{
		{"graph driver", nil, "graph driver overlay2", doctor.Warning},
		{
			"containerd", []string{"--feature", "containerd-snapshotter", "--add-runtime", "sysbox-runc=/usr/bin/false"},
			"containerd, snapshotter overlayfs", doctor.Failed,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			openEngine(t, test.flags...)
			checks, err := doctor.Run(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range map[string]struct {
				state doctor.State
				found string
			}{
				"Docker Engine":             {doctor.OK, "unix://"},
				"image store":               {doctor.OK, test.store},
				"Sysbox":                    {test.sysbox, "sysbox-"},
				"overlayfs":                 {doctor.OK, " and /"},
				"ID-mapped overlayfs":       {doctor.OK, "tried on /"},
				"disk of the Docker Engine": {doctor.OK, " GiB free"},
			} {
				found := false
				for _, c := range checks {
					if c.Name != name {
						continue
					}
					found = true
					// What is free on the disk is the machine's affair, as long as it is known.
					if c.State != want.state && (c.State == doctor.Unknown || !strings.HasPrefix(name, "disk")) || !strings.Contains(c.Found, want.found) {
						t.Errorf("got %+v, want state %s and %q", c, want.state, want.found)
					}
				}
				if !found {
					t.Errorf("there is no check %s", name)
				}
			}
		})
	}
}
