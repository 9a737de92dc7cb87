#!/bin/sh
# Fits containerd, and the Docker Engine above it, to this container. The entrypoint runs it before systemd, on every start.
set -eu

say() { echo "nodeimg: $*" >&2; }

containerd=/etc/containerd/config.toml
docker=/etc/docker/daemon.json

# Lowering oom_score_adj needs CAP_SYS_RESOURCE in the initial user namespace; containers cannot start where it is missing.
if ! (echo -998 >/proc/self/oom_score_adj) 2>/dev/null; then
	sed -i 's/^\( *restrict_oom_score_adj = \)false/\1true/' "$containerd"
	[ ! -e "$docker" ] || sed -i 's/\("default-runtime": \)"runc"/\1"nodeimg"/' "$docker"
fi

snapshotter=${KIND_EXPERIMENTAL_CONTAINERD_SNAPSHOTTER:-}
if [ -z "$snapshotter" ]; then
	# An overlay's upper directory cannot lie on an overlay: without a volume at /var or /var/lib/containerd only copying works.
	probe=/var/lib/containerd/.nodeimg-probe
	mkdir -p "$probe/lower" "$probe/upper" "$probe/work" "$probe/merged"
	lower=$probe/lower
	# Unpacked images are lower directories on the container's own file system, and overlays stack only two deep.
	[ ! -d /usr/lib/nodeimg/snapshots ] || lower=/usr/lib/nodeimg/snapshots:$lower
	if mount -t overlay overlay -o "lowerdir=$lower,upperdir=$probe/upper,workdir=$probe/work" "$probe/merged" 2>/dev/null; then
		umount "$probe/merged"
	else
		snapshotter=native
		command -v fuse-overlayfs >/dev/null && [ -e /dev/fuse ] && command -v containerd-fuse-overlayfs-grpc >/dev/null && snapshotter=fuse-overlayfs
		say "overlayfs does not work on /var/lib/containerd; using the $snapshotter snapshotter (mount a volume there to be faster)"
	fi
	rm -rf "$probe"
fi
if [ -n "$snapshotter" ]; then
	sed -i "s/^\( *snapshotter = \)\"overlayfs\"/\1\"$snapshotter\"/" "$containerd"
	[ ! -e "$docker" ] || sed -i "s/\(\"storage-driver\": \)\"overlayfs\"/\1\"$snapshotter\"/" "$docker"
fi
