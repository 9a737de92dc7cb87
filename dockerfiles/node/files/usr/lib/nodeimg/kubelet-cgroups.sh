#!/bin/sh
# Makes the cgroups that a kubelet with "cgroupRoot: /kubelet" (stock kind) expects, before the kubelet starts: kubelet and kubelet.slice,
# with every controller that this container was given. Idempotent.
set -eu

if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
	sed 's/\b\([a-z]\)/+\1/g' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control || true
	for group in kubelet kubelet.slice; do
		mkdir -p "/sys/fs/cgroup/$group"
		sed 's/\b\([a-z]\)/+\1/g' "/sys/fs/cgroup/$group/cgroup.controllers" >"/sys/fs/cgroup/$group/cgroup.subtree_control" || true
	done
	exit 0
fi

# cgroup v1: hierarchies are where /proc/mounts says, not whatever lies below /sys/fs/cgroup.
awk '$3 == "cgroup" { print $2 }' /proc/mounts | while read -r hierarchy; do
	for group in kubelet kubelet.slice; do
		mkdir -p "$hierarchy/$group" || continue
		# A new cpuset is empty and takes no process until it is filled.
		for knob in cpuset.cpus cpuset.mems; do
			if [ -f "$hierarchy/$knob" ] && [ -z "$(cat "$hierarchy/$group/$knob")" ]; then
				cat "$hierarchy/$knob" >"$hierarchy/$group/$knob"
			fi
		done
	done
done
