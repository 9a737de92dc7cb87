package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nodeimg/nodeimg/recipes"
	"github.com/nodeimg/nodeimg/test/conformance/tree"
	"github.com/nodeimg/nodeimg/test/internal/node"
)

// view is how one looks at images in a node, by its container runtime.
type view struct {
	// packages that looking needs are added to the node's.
	packages []string
	// ready lists the images that the runtime knows, and whether they are unpacked already. One that is not complete is an error.
	ready func(ctx context.Context, n *node.Node) (map[string]bool, error)
	// run is a shell script that lets a container of the image $2 write the tree that it sees, with the program $3, which it is to have at
	// $4, into the file "tree" in the new folder $1. With exact set, the container sees no more than the image.
	run   string
	exact bool
	// mount is a script that writes the tree of the image as it is mounted for containers, without running one.
	mount string
	// unmountable says that mount cannot do the row's image; then a container shows it.
	unmountable func(row) bool
	// own are paths that the runtime puts into every container.
	own []string
}

// mountPoints are what the Docker Engine and CRI-O make for files that they mount, and the root, whose time that changes.
var mountPoints = []string{"/", "/dev", "/etc", "/etc/hostname", "/etc/hosts", "/etc/mtab", "/etc/resolv.conf", "/proc", "/sys"}

var views = map[recipes.CRIName]view{
	recipes.CRIContainerd: {ready: unpacked, run: runByCtr, exact: true, mount: mountByCtr},
	recipes.CRIDocker: {
		ready: dockerKnows,
		run: `mkdir -m 0777 "$1" && docker run --rm --network none --volume "$3:$4:ro" --volume "$1:/conformance" --entrypoint "$4" "$2" \
			/ /conformance/tree >&2 && cat "$1/tree"`,
		mount: mountByCtr,
		// ctr would unpack the image anew to mount it, which containerd refuses.
		unmountable: func(r row) bool { return r.refused },
		own:         append([]string{"/.dockerenv", "/dev/console", "/dev/pts", "/dev/shm"}, mountPoints...),
	},
	recipes.CRICRIO: {
		// CRI-O has no command that mounts a container of an image; podman shares its storage library and its configuration.
		packages: []string{"podman"},
		ready:    crioKnows,
		run:      runByCRI,
		// Before it is started nothing is added to a container's tree. Podman's own containers lie elsewhere: its older library takes away
		// what CRI-O has mounted.
		mount: `podman() { command podman --root /var/tmp/podman --runroot /run/podman --storage-driver overlay \
				--storage-opt additionalimagestore=/usr/lib/nodeimg/containers "$@"; }
			mkdir "$1" && container=$(podman create --pull never "$2" /none) && dir=$(podman mount "$container") && "$3" "$dir" "$1/tree" &&
			podman rm "$container" >&2 && cat "$1/tree"`,
		// Debian's podman writes all folders of an additional store into one page of mount options; CRI-O's library does not.
		unmountable: func(r row) bool { return len(r.layers) > 50 },
		own:         append([]string{"/run", "/run/.containerenv"}, mountPoints...),
	},
}

const (
	// The container may belong to any user.
	runByCtr = `mkdir -m 0777 "$1" && ctr --namespace k8s.io run --rm --mount "type=bind,src=$3,dst=$4,options=rbind:ro" \
		--mount "type=bind,src=$1,dst=/conformance,options=rbind:rw" "$2" "${1##*/}" "$4" / /conformance/tree >&2 && cat "$1/tree"`
	mountByCtr = `mkdir -p "$1/mounted" && ctr --namespace "${CONTAINERD_NAMESPACE:-k8s.io}" images mount --rw "$2" "$1/mounted" >&2 &&
		"$3" "$1/mounted" "$1/tree" && umount "$1/mounted" && cat "$1/tree"`
	// A pod in the node's own network needs no pod network.
	runByCRI = `mkdir -m 0777 "$1" && name=${1##*/} &&
		cat >"$1/pod.json" <<-EOF &&
			{"metadata": {"name": "$name", "namespace": "conformance", "uid": "$name"}, "log_directory": "$1",
			 "linux": {"security_context": {"namespace_options": {"network": 2}}}}
		EOF
		cat >"$1/container.json" <<-EOF &&
			{"metadata": {"name": "$name"}, "image": {"image": "$2"}, "command": ["$4", "/", "/conformance/tree"], "log_path": "log",
			 "mounts": [{"host_path": "$3", "container_path": "$4", "readonly": true}, {"host_path": "$1", "container_path": "/conformance"}]}
		EOF
		pod=$(crictl runp "$1/pod.json") && container=$(crictl create "$pod" "$1/container.json" "$1/pod.json") &&
		crictl start "$container" >&2 &&
		while crictl ps --quiet --id "$container" | grep -q .; do sleep 0.1; done &&
		cat "$1/log" >&2; crictl rmp --force "$pod" >&2; cat "$1/tree"`
)

// look returns what a container of the image sees: of every image what is mounted for containers, which is exactly the image, unless
// running one shows as much; and of some images what a container sees that really runs.
func (v view) look(ctx context.Context, n *node.Node, c combination, r row) seen {
	reference := r.reference(c.seeds)
	isSome := slices.ContainsFunc(some, func(s row) bool { return s.name == r.name })
	if v.exact && (isSome || c.layout == recipes.LayoutUnpacked) {
		got, err := seeBy(ctx, n, v.run, reference, r.name)
		return seen{tree: got, err: err}
	}
	if v.unmountable != nil && v.unmountable(r) {
		got, err := seeBy(ctx, n, v.run, reference, r.name)
		return seen{tree: got, err: err, added: v.own}
	}
	got, err := seeBy(ctx, n, v.mount, reference, r.name)
	if err != nil || !isSome {
		return seen{tree: got, err: err}
	}
	ran, err := seeBy(ctx, n, v.run, reference, r.name+"-run")
	if err != nil {
		return seen{err: err}
	}
	// What runs must see what is mounted, but for what the runtime adds.
	mounted := maps.Clone(got)
	for _, path := range v.own {
		delete(mounted, path)
		delete(ran, path)
	}
	if lines := tree.Diff(mounted, ran, tree.Options{}); len(lines) > 0 {
		return seen{err: fmt.Errorf("a container that runs sees something else than what is mounted for it:\n%s", strings.Join(lines, "\n"))}
	}
	return seen{tree: got}
}

// unpacked says of each image that containerd in the node knows whether its snapshots are there. An image whose content is not complete
// is an error.
func unpacked(ctx context.Context, n *node.Node) (map[string]bool, error) {
	out, err := n.Exec(ctx, "sh", "-c", `ctr --namespace "${CONTAINERD_NAMESPACE:-k8s.io}" images check`)
	if err != nil {
		return nil, err
	}
	is := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n")[1:] {
		// REF TYPE DIGEST STATUS SIZE UNPACKED
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[3] != "complete" {
			return nil, fmt.Errorf("containerd in the node says of an image: %s", line)
		}
		is[fields[0]] = fields[len(fields)-1] == "true"
	}
	return is, nil
}

// dockerKnows is unpacked for the images that the Docker Engine lists too.
func dockerKnows(ctx context.Context, n *node.Node) (map[string]bool, error) {
	is, err := unpacked(ctx, n)
	if err != nil {
		return nil, err
	}
	out, err := n.Exec(ctx, "docker", "images", "--format", "{{.Repository}}:{{.Tag}}")
	if err != nil {
		return nil, err
	}
	listed := map[string]bool{}
	for _, line := range strings.Fields(out) {
		listed[line] = true
	}
	for reference := range is {
		if !listed[reference] && !strings.Contains(reference, "@") {
			return nil, fmt.Errorf("docker images does not list %s, which its containerd has", reference)
		}
	}
	return is, nil
}

// crioKnows lists the images of CRI-O, which are always unpacked.
func crioKnows(ctx context.Context, n *node.Node) (map[string]bool, error) {
	out, err := n.Exec(ctx, "crictl", "images", "--output", "json")
	if err != nil {
		return nil, err
	}
	var listed struct{ Images []struct{ RepoTags []string } }
	if err := json.Unmarshal([]byte(out), &listed); err != nil {
		return nil, fmt.Errorf("reading the list of images: %w", err)
	}
	is := map[string]bool{}
	for _, image := range listed.Images {
		for _, tag := range image.RepoTags {
			is[tag] = true
		}
	}
	return is, nil
}

func seeBy(ctx context.Context, n *node.Node, script, reference, id string) (map[string]tree.Entry, error) {
	out, err := n.Exec(ctx, "sh", "-c", script, "see", "/var/tmp/"+id, reference, dumpInNode, dumpInContainer)
	if err != nil {
		return nil, err
	}
	return tree.Read(strings.NewReader(out))
}
