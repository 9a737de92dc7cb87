#!/bin/sh
# Fits CRI-O to this container. The entrypoint runs it before systemd, on every start.
set -eu

say() { echo "nodeimg: $*" >&2; }

# Lowering oom_score_adj needs CAP_SYS_RESOURCE in the initial user namespace; containers cannot start where it is missing.
if ! (echo -998 >/proc/self/oom_score_adj) 2>/dev/null; then
	sed -i 's|^\(runtime_path = \)"/usr/local/bin/runc"|\1"/usr/lib/nodeimg/runc.sh"|' /etc/crio/crio.conf
fi

# The kubelet does not collect images that CRI-O cannot remove: those of the read-only stores.
/usr/lib/nodeimg/loaded-images.sh prepare
mkdir -p /etc/crio/crio.conf.d
ln -sfn /var/lib/nodeimg/images/current/pinned.conf /etc/crio/crio.conf.d/10-nodeimg-pinned.conf

# An overlay's upper directory cannot lie on an overlay, and the preloaded images are there for the overlay driver alone.
probe=/var/lib/containers/.nodeimg-probe
mkdir -p "$probe/upper" "$probe/work" "$probe/merged"
if mount -t overlay overlay -o "lowerdir=/usr/lib/nodeimg,upperdir=$probe/upper,workdir=$probe/work" "$probe/merged" 2>/dev/null; then
	umount "$probe/merged"
else
	say "ERROR: overlayfs does not work on /var/lib/containers; mount a volume at /var or at /var/lib/containers"
	rm -rf "$probe"
	exit 1
fi
rm -rf "$probe"
