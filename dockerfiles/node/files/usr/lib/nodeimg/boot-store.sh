#!/bin/sh
# Makes the preloaded images containerd's own before its first start, without copying them: every blob by a symbolic link into the store,
# the two databases by copy, because containerd writes to them. With a meta.db the node has booted before and its state is left alone;
# meta.db comes last and by rename, so a boot that was cut short is completed by the next one.
set -eu

store=${NODEIMG_STORE:-/usr/lib/nodeimg/store}
databases=${NODEIMG_DATABASES:-/usr/lib/nodeimg/databases}
root=${NODEIMG_CONTAINERD_ROOT:-/var/lib/containerd}
blobs=$root/io.containerd.content.v1.content/blobs/sha256
meta=$root/io.containerd.metadata.v1.bolt
snapshots=$root/io.containerd.snapshotter.v1.overlayfs

if [ -e "$meta/meta.db" ]; then
	exit 0
fi

mkdir -p "$blobs" "$meta" "$snapshots"
# One ln takes thousands of blobs; a fork for each would cost seconds.
find "$store/blobs/sha256" -type f -exec ln -sfn -t "$blobs" {} +
if [ ! -e "$snapshots/metadata.db" ]; then
	cp "$databases/metadata.db" "$snapshots/metadata.db.new"
	chmod 0600 "$snapshots/metadata.db.new"
	mv -f "$snapshots/metadata.db.new" "$snapshots/metadata.db"
fi
cp "$databases/meta.db" "$meta/meta.db.new"
chmod 0600 "$meta/meta.db.new"
mv -f "$meta/meta.db.new" "$meta/meta.db"
