#!/bin/sh
# Makes the preloaded images containerd's own before its first start, without copying them: every blob and every unpacked tree by a
# symbolic link, the two databases by copy, because containerd writes to them. It starts the same number of programs for any number of
# images. With a meta.db containerd has run before, and its state is left alone: what a user removed stays removed. A state that was not
# made from this store is left to register-store.sh. meta.db comes last and by rename: a boot that was cut short is begun anew.
set -eu

store=${NODEIMG_STORE:-/usr/lib/nodeimg/store}
databases=${NODEIMG_DATABASES:-/usr/lib/nodeimg/databases}
root=${NODEIMG_CONTAINERD_ROOT:-/var/lib/containerd}
runtime=${NODEIMG_RUNTIME:-/run/nodeimg}
blobs=$root/io.containerd.content.v1.content/blobs/sha256
meta=$root/io.containerd.metadata.v1.bolt
snapshots=$root/io.containerd.snapshotter.v1.overlayfs
# What the state was made from: the databases' digest, then the index.
marker=$root/nodeimg-store

id=$(cat "$databases/meta.db" "$databases/metadata.db" | sha256sum)
id=${id%% *}
if [ -e "$meta/meta.db" ]; then
	known=
	[ ! -e "$marker" ] || read -r known <"$marker" || true
	if [ "$known" != "$id" ]; then
		mkdir -p "$runtime"
		: >"$runtime/register-store"
	fi
	exit 0
fi

mkdir -p "$blobs" "$meta" "$snapshots"
# Without meta.db nothing refers to what an earlier boot, perhaps of another image, began here.
rm -rf "$snapshots/snapshots" "$snapshots/metadata.db"
find -L "$blobs" -maxdepth 1 -type l -exec rm -f {} +
# One ln takes thousands of blobs; a fork for each would cost seconds.
find "$store/blobs/sha256" -type f -exec ln -sfn -t "$blobs" {} +
mkdir -m 0700 "$snapshots/snapshots"
if [ -d "$databases/snapshots" ]; then
	# Ownership is not kept: in a user namespace it may be one that nobody there can give.
	cp -RP "$databases/snapshots/." "$snapshots/snapshots"
fi
cp "$databases/metadata.db" "$snapshots/metadata.db.new"
cp "$databases/meta.db" "$meta/meta.db.new"
{ echo "$id" && cat "$store/index.json"; } >"$marker.new"
chmod 0600 "$snapshots/metadata.db.new" "$meta/meta.db.new" "$marker.new"
# A rename may reach the disk before the content.
sync "$snapshots/metadata.db.new" "$meta/meta.db.new" "$marker.new"
mv -f "$snapshots/metadata.db.new" "$snapshots/metadata.db"
mv -f "$marker.new" "$marker"
mv -f "$meta/meta.db.new" "$meta/meta.db"
