#!/bin/sh
# Pulls images in a build step of a Dockerfile that begins FROM this node image, with the node's own containerd, and leaves them beside
# the preloaded ones: pinned, packed, in /var/lib/containerd. It needs the step's network and no privilege, because nothing is unpacked.
# Mirrors and certificates are those of /etc/containerd/certs.d.
# usage: RUN /usr/lib/nodeimg/pull-images.sh REGISTRY/REPOSITORY:TAG...
set -eu

root=${NODEIMG_CONTAINERD_ROOT:-/var/lib/containerd}
hosts=${NODEIMG_HOSTS:-/etc/containerd/certs.d}
# The Docker Engine has a namespace of its own, which the image's environment names.
export CONTAINERD_NAMESPACE="${CONTAINERD_NAMESPACE:-k8s.io}"

refuse() {
	echo "pull-images.sh: $*" >&2
	exit 2
}

[ "$#" -gt 0 ] || refuse "name at least one image, for instance docker.io/library/nginx:1.29"
for reference in "$@"; do
	case ${reference%%/*} in
	"$reference") refuse "$reference: write the whole name, for instance docker.io/library/$reference" ;;
	*.* | *:* | localhost) ;;
	*) refuse "$reference: write the whole name, for instance docker.io/$reference" ;;
	esac
	case ${reference##*/} in
	*:* | *@*) ;;
	*) refuse "$reference: write the tag too, for instance $reference:latest" ;;
	esac
done
[ ! -S "${CONTAINERD_ADDRESS:-/run/containerd/containerd.sock}" ] || refuse "containerd runs in this container; pull with crictl pull"

state=$(mktemp -d)
containerd_pid=

stop() {
	[ -z "$containerd_pid" ] || kill "$containerd_pid" 2>/dev/null || true
	[ -z "$containerd_pid" ] || wait "$containerd_pid" || true
	containerd_pid=
}

finish() {
	status=$?
	stop
	if [ "$status" -ne 0 ] && [ -s "$state/log" ]; then
		echo "--- containerd" >&2
		cat "$state/log" >&2
	fi
	rm -rf "$state"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Without the preloaded databases containerd would begin empty, and the node's boot would find a state that is not its own.
if [ -e /usr/lib/nodeimg/store/index.json ]; then
	NODEIMG_RUNTIME="$state" /usr/lib/nodeimg/boot-store.sh
fi

# What runs containers needs privileges that a build step lacks, and is not needed to pull.
cat >"$state/config.toml" <<-'CONFIG'
	version = 3
	disabled_plugins = [
	  "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt",
	  "io.containerd.internal.v1.restart", "io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.blockfile",
	  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs",
	  "io.containerd.snapshotter.v1.overlayfs", "io.containerd.snapshotter.v1.zfs",
	]
CONFIG
containerd --config "$state/config.toml" --root "$root" --state "$state/containerd" --address "$state/containerd.sock" \
	--log-level error >"$state/log" 2>&1 &
containerd_pid=$!

inner() { ctr --address "$state/containerd.sock" "$@"; }

tries=0
until [ -S "$state/containerd.sock" ] && inner version >/dev/null 2>&1; do
	tries=$((tries + 1))
	if [ "$tries" -gt 600 ] || ! kill -0 "$containerd_pid" 2>/dev/null; then
		echo "pull-images.sh: containerd did not start" >&2
		exit 1
	fi
	sleep 0.1
done

for reference in "$@"; do
	inner content fetch --hosts-dir "$hosts" --skip-metadata \
		--label io.cri-containerd.image=managed --label io.cri-containerd.pinned=pinned "$reference" >"$state/said" || {
		echo "pull-images.sh: pulling $reference failed; the step needs a network that reaches its registry, or a mirror in $hosts" >&2
		exit 1
	}
	digest=$(inner images ls "name==$reference" | awk 'FNR == 2 { print $3 }')
	name=${reference%@*}
	case ${name##*/} in
	*:*) name=${name%:*} ;;
	esac
	# Manifests that name a digest find the image under this name; the Docker Engine finds it by itself.
	[ "$CONTAINERD_NAMESPACE" = moby ] || [ "$reference" = "$name@$digest" ] || inner images tag --local --force "$reference" "$name@$digest" >/dev/null
	echo "pulled $reference $digest"
done
stop
rm -rf "$root/io.containerd.content.v1.content/ingest" "$root/tmpmounts"
