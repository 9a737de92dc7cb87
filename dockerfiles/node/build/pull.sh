#!/bin/sh
# Pulls one image's content with the node's own containerd, through nodeimg's broker and nothing else: the step has no network. It unpacks
# nothing, so it needs no privilege. The blobs end up in /out/blobs/sha256 and nothing else is left behind.
# usage: pull.sh REFERENCE PLATFORM DIGEST
set -eu

reference=$1
platform=$2
digest=$3
broker=${NODEIMG_BROKER:-/run/nodeimg/broker.sock}
out=${NODEIMG_OUT:-/out}

mkdir -p "$out/blobs/sha256"
# Content lies beside its goal, to be moved there; sockets lie where their path is short.
work=$(mktemp -d "$out/.pull.XXXXXX")
state=$(mktemp -d)
socat_pid=
containerd_pid=

stop() {
	for pid in $containerd_pid $socat_pid; do
		kill "$pid" 2>/dev/null || true
	done
	for pid in $containerd_pid $socat_pid; do
		wait "$pid" || true
	done
	socat_pid=
	containerd_pid=
}

finish() {
	status=$?
	stop
	if [ "$status" -ne 0 ]; then
		echo "pulling $reference@$digest failed with status $status" >&2
		for log in "$work/socat.log" "$work/containerd.log"; do
			if [ -s "$log" ]; then
				echo "--- ${log##*/}" >&2
				cat "$log" >&2
			fi
		done
	fi
	rm -rf "$work" "$state"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[ -S "$broker" ] || {
	echo "there is no socket $broker; the step lacks its ssh mount" >&2
	exit 1
}

# Everything that would want a kernel feature, a network or a runtime is switched off: only content is stored.
cat >"$work/config.toml" <<-'CONFIG'
	version = 3
	disabled_plugins = [
	  "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri",
	  "io.containerd.image-verifier.v1.bindir", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart",
	  "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp", "io.containerd.nri.v1.nri",
	  "io.containerd.podsandbox.controller.v1.podsandbox", "io.containerd.runtime.v2.task", "io.containerd.sandbox.controller.v1.shim",
	  "io.containerd.service.v1.tasks-service", "io.containerd.grpc.v1.tasks", "io.containerd.shim.v1.manager",
	  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
	  "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.overlayfs",
	  "io.containerd.snapshotter.v1.zfs", "io.containerd.transfer.v1.local",
	]
CONFIG

mkdir -p "$work/hosts/_default"
cat >"$work/hosts/_default/hosts.toml" <<-'HOSTS'
	server = "http://127.0.0.1:5000"
	[host."http://127.0.0.1:5000"]
	  capabilities = ["pull", "resolve"]
HOSTS

socat TCP-LISTEN:5000,bind=127.0.0.1,fork,reuseaddr "UNIX-CONNECT:$broker" 2>"$work/socat.log" &
socat_pid=$!
containerd --config "$work/config.toml" --root "$work/root" --state "$state/containerd" --address "$state/containerd.sock" \
	--log-level warn >"$work/containerd.log" 2>&1 &
containerd_pid=$!

inner() { ctr --address "$state/containerd.sock" --namespace k8s.io "$@"; }

# listening says that something accepts connections at port 5000 (proc_net_tcp: the port in hexadecimal, 0A is LISTEN). On a busy machine
# socat may be slower than containerd.
listening() { grep -q '0100007F:1388 00000000:0000 0A' /proc/net/tcp; }

tries=0
until listening && [ -S "$state/containerd.sock" ] && inner version >/dev/null 2>&1; do
	tries=$((tries + 1))
	if [ "$tries" -gt 600 ] || ! kill -0 "$containerd_pid" 2>/dev/null || ! kill -0 "$socat_pid" 2>/dev/null; then
		echo "containerd or the way to the broker did not start" >&2
		exit 1
	fi
	sleep 0.1
done

# A name may carry a tag and a digest; the digest then decides. Other platforms' manifests are not in the lock and must not be asked for.
inner content fetch --hosts-dir "$work/hosts" --platform "$platform" --skip-metadata "${reference%@*}@$digest" >/dev/null
inner content ls --quiet >"$work/list"
grep -qx "$digest" "$work/list" || {
	echo "containerd pulled $reference, but $digest is not in its store" >&2
	exit 1
}
stop

for blob in "$work"/root/io.containerd.content.v1.content/blobs/sha256/*; do
	mv -f "$blob" "$out/blobs/sha256/"
done
chmod 0644 "$out"/blobs/sha256/*
rm -rf "$work" "$state"
if [ -n "${SOURCE_DATE_EPOCH:-}" ]; then
	find "$out" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
fi
