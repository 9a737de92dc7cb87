package cluster

import (
	"cmp"
	"slices"
	"strings"

	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/recipes"
)

// sysbox is the OCI runtime that runs nodes without privileges.
const sysbox = "sysbox-runc"

// plainRuntimes are programs that give a container without privileges too few to boot systemd: no mounts and no control groups of its own.
var plainRuntimes = []string{"runc", "crun"}

// chooseRuntime is the name of the runtime for the nodes of a description, empty for the Engine's default. The error is a
// *recipes.InputError when the Engine does not have it, or when nodes cannot run under it.
func chooseRuntime(spec config.Spec, has dockerengine.Runtimes) (string, error) {
	const remedy = "install Sysbox (https://github.com/nestybox/sysbox), or choose nodes with every privilege on this host by --privileged"
	name := spec.Runtime
	if name == "" && !spec.Privileged {
		name = sysbox
	}
	program := cmp.Or(has.Programs[name], name)
	switch {
	case name != "" && name == spec.Runtime && !slices.Contains(has.Names, name):
		return "", recipes.InputErrorf("the Docker Engine has no runtime %s; it has %s", name, strings.Join(has.Names, ", "))
	case spec.Privileged:
	case !slices.Contains(has.Names, name):
		return "", recipes.InputErrorf("the Docker Engine has no runtime %s, which nodes need to run without privileges; %s", name, remedy)
	case slices.Contains(plainRuntimes, program), name == has.Default && name != sysbox && program != sysbox:
		return "", recipes.InputErrorf("found the runtime %s, under which nodes cannot boot without privileges; %s", name, remedy)
	}
	return name, nil
}
