package cluster

import (
	"errors"
	"strings"
	"testing"

	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/recipes"
)

// TestChooseRuntime lists runtimes and privileges that are asked for, what the Engine has, and what comes of it: a name, or an error.
func TestChooseRuntime(t *testing.T) {
	has := func(normal string, programs ...string) dockerengine.Runtimes {
		r := dockerengine.Runtimes{Names: []string{"runc", "io.containerd.runc.v2"}, Default: normal}
		r.Programs = map[string]string{"runc": "runc", "io.containerd.runc.v2": "runc"}
		for i := 0; i < len(programs); i += 2 {
			r.Names = append(r.Names, programs[i])
			r.Programs[programs[i]] = programs[i+1]
		}
		return r
	}
	const privileges = "under which nodes cannot boot without privileges; install Sysbox"
	plain, all := has("runc"), has("runc", "sysbox-runc", "sysbox-runc", "crun", "crun", "fast", "crun", "kata", "kata-runtime", "mine", "sysbox-runc")
	for name, test := range map[string]struct {
		runtime    string
		privileged bool
		has        dockerengine.Runtimes
		want, err  string
	}{
		"sysbox":                        {"", false, all, "sysbox-runc", ""},
		"no sysbox":                     {"", false, plain, "", "has no runtime sysbox-runc, which nodes need to run without privileges; install Sysbox"},
		"the Engine's":                  {"", true, plain, "", ""},
		"named and privileged":          {"runc", true, plain, "runc", ""},
		"runc":                          {"runc", false, all, "", "found the runtime runc, " + privileges},
		"runc by its shim":              {"io.containerd.runc.v2", false, all, "", privileges},
		"crun":                          {"crun", false, all, "", privileges},
		"crun by another name":          {"fast", false, all, "", privileges},
		"the Engine's by its name":      {"kata", false, has("kata", "kata", "kata-runtime"), "", privileges},
		"one that may do":               {"kata", false, all, "kata", ""},
		"sysbox by another name":        {"mine", false, has("mine", "mine", "sysbox-runc"), "mine", ""},
		"sysbox is the Engine's":        {"sysbox-runc", false, has("sysbox-runc", "sysbox-runc", "wrapper"), "sysbox-runc", ""},
		"missing":                       {"missing", false, plain, "", "has no runtime missing; it has runc, io.containerd.runc.v2"},
		"sysbox is named but not there": {"sysbox-runc", false, plain, "", "has no runtime sysbox-runc; it has"},
		"missing and privileged":        {"missing", true, plain, "", "has no runtime missing; it has"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := chooseRuntime(config.Spec{Runtime: test.runtime, Privileged: test.privileged}, test.has)
			switch {
			case test.err == "" && (err != nil || got != test.want):
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			case test.err != "" && (!errors.As(err, new(*recipes.InputError)) || !strings.Contains(err.Error(), test.err)):
				t.Errorf("got %q, %v, want an *InputError with %q", got, err, test.err)
			}
		})
	}
}
