#!/bin/sh
# Brings a running containerd in line with the store when its state was not made from this store: containerd has run before the store was
# linked, or /var was used with another node image. First it takes away what the state refers to and no store has any more: such images
# would look present and their containers would not start. Then it registers the store's images by the usual import, which reads every
# new blob once and keeps none of it. Images that the user pulled or removed stay as they are. It can be cut short and run again.
set -eu

store=${NODEIMG_STORE:-/usr/lib/nodeimg/store}
databases=${NODEIMG_DATABASES:-/usr/lib/nodeimg/databases}
root=${NODEIMG_CONTAINERD_ROOT:-/var/lib/containerd}
runtime=${NODEIMG_RUNTIME:-/run/nodeimg}
blobs=$root/io.containerd.content.v1.content/blobs/sha256
snapshots=$root/io.containerd.snapshotter.v1.overlayfs/snapshots
marker=$root/nodeimg-store
id=$(cat "$databases/meta.db" "$databases/metadata.db" | sha256sum)
id=${id%% *}
# Which images to register and which blobs are lost is found once for a store, before anything is removed.
wanted=$root/nodeimg-wanted-$id
lost=$root/nodeimg-lost-$id
failed=
# The Docker Engine has a namespace of its own, which the unit names.
export CONTAINERD_NAMESPACE="${CONTAINERD_NAMESPACE:-k8s.io}"

say() { echo "nodeimg: $*"; }

# names prints a line "REFERENCE DIGEST" for each image of an index as nodeimg writes it.
names() { awk -F '"' '$2 == "digest" { digest = $4 } $2 == "io.containerd.image.name" { print $4, digest }' "$1"; }

# check prints the table of images and their states. ctr fails, after all of it, where blobs are missing.
check() {
	ctr images check >"$work/check" 2>/dev/null || grep -q '^REF' "$work/check"
	cat "$work/check"
}

# choose prints which images of the store to register. Those of the earlier store that are no more were removed by the user; those that
# have another digest than the earlier store gave them are the user's own.
choose() {
	awk 'FILENAME == ARGV[1] { earlier[$1, $2] = 1; next }
		FILENAME == ARGV[2] { digest[$1] = $3; complete[$1] = $4 == "complete"; next }
		!($1 in digest) { if (!(($1, $2) in earlier)) print; next }
		digest[$1] == $2 { if (!complete[$1]) print; next }
		($1, digest[$1]) in earlier { print }' "$work/earlier" "$work/images" "$work/store"
}

# descendants prints the snapshots in the file $1 and all that stand on them in the table $2, children first.
descendants() {
	awk 'FILENAME == ARGV[1] { lost[$1] = 1; next }
		FNR > 1 { parent[$1] = NF > 2 ? $2 : "" }
		END {
			for (key in parent) {
				hit = depth = 0
				for (up = key; up != ""; up = parent[up]) { depth++; if (up in lost) hit = 1 }
				if (hit) print depth, key
			}
		}' "$1" "$2" | sort -rn | cut -d ' ' -f 2
}

# forget removes images, snapshots and blobs whose files were in an earlier store and are not in this one.
forget() {
	: >"$work/chains"
	if [ -d "$snapshots" ]; then
		find -L "$snapshots" -maxdepth 1 -type l -exec readlink {} + | sed 's|.*/|sha256:|' >"$work/chains"
	fi
	if [ -s "$work/chains" ]; then
		say "$(wc -l <"$work/chains") unpacked layers are in this node image no more; pods and containers are removed and will be made anew"
		# Nothing runs yet; the kubelet replaces what it finds missing.
		# The Docker Engine starts later and marks what it cannot find as dead.
		if [ "$CONTAINERD_NAMESPACE" != moby ] && command -v crictl >/dev/null; then
			crictl rmp --all --force || true
		fi
		ctr snapshots --snapshotter overlayfs ls >"$work/snapshots"
		descendants "$work/chains" "$work/snapshots" >"$work/lost"
		xargs -r ctr snapshots --snapshotter overlayfs rm <"$work/lost" || failed="not all unpacked layers could be removed"
	fi
	# What was pulled since an earlier run was cut short is lost no more.
	find -L "$blobs" -maxdepth 1 -type f | sed 's|.*/|sha256:|' >"$work/whole"
	awk 'FILENAME == ARGV[1] { whole[$1] = 1; next } !($1 in whole)' "$work/whole" "$lost" >"$work/blobs"
	if [ -s "$work/blobs" ]; then
		xargs -r ctr content rm <"$work/blobs" >/dev/null || true
		check | awk 'FILENAME == ARGV[1] { lost[$1] = 1; next }
			FNR > 1 && ($4 == "incomplete" || $3 in lost) { print $1 }' "$work/blobs" - >"$work/gone"
		if [ -s "$work/gone" ]; then
			say "removed, because this node image does not hold them:" && cat "$work/gone"
			xargs -r ctr images rm --sync <"$work/gone" >/dev/null
		fi
	fi
}

# register imports the wanted images.
register() {
	awk 'FILENAME == ARGV[1] { want[$1] = 1; next }
		/^    [{]$/ { block = $0; name = ""; inside = 1; next }
		inside { block = block "\n" $0; if (split($0, part, "\"") > 3 && part[2] == "io.containerd.image.name") name = part[4] }
		inside && /^    [}],?$/ { inside = 0; sub(/,$/, "", block); if (name in want) { printf "%s%s", comma, block; comma = ",\n" }; next }
		inside { next }
		/^  \]/ && comma { print "" }
		{ print }' "$wanted" "$store/index.json" >"$work/index.json"
	cp "$store/oci-layout" "$work/oci-layout"
	ls "$store/blobs/sha256" >"$work/all"
	ls "$blobs" >"$work/here"
	# The import keeps no copy of a blob that is there already.
	awk 'FILENAME == ARGV[1] { here[$1] = 1; next } !($1 in here)' "$work/here" "$work/all" >"$work/new"
	sed "s|^|$store/blobs/sha256/|" "$work/new" | xargs -r ln -sfn -t "$blobs"
	ctr content ls -q | sed 's|sha256:||' >"$work/known"
	awk 'FILENAME == ARGV[1] { known[$1] = 1; next } !($1 in known) { print "blobs/sha256/" $1 }' "$work/known" "$work/all" >"$work/files"
	tar -c -C "$work" oci-layout index.json -C "$store" -T "$work/files" |
		ctr images import --no-unpack --label io.cri-containerd.image=managed --label io.cri-containerd.pinned=pinned - >/dev/null
	while read -r reference digest; do
		name=${reference%@*}
		case ${name##*/} in
		*:*) name=${name%:*} ;;
		esac
		[ "$CONTAINERD_NAMESPACE" = moby ] || [ "$reference" = "$name@$digest" ] || ctr images tag --force "$reference" "$name@$digest" >/dev/null
		say "registered $reference"
	done <"$wanted"
}

work=$runtime/register
rm -rf "$work"
mkdir -p "$work" "$blobs"
names "$store/index.json" >"$work/store"
: >"$work/earlier"
[ ! -e "$marker" ] || names "$marker" >"$work/earlier"
if [ ! -e "$wanted" ]; then
	find -L "$blobs" -maxdepth 1 -type l | sed 's|.*/|sha256:|' >"$lost"
	check >"$work/images"
	choose >"$wanted.new"
	mv -f "$wanted.new" "$wanted"
fi
forget
[ ! -s "$wanted" ] || register
if [ -n "$failed" ]; then
	say "$failed; the next start tries again"
	exit 1
fi
{ echo "$id" && cat "$store/index.json"; } >"$marker.new"
mv -f "$marker.new" "$marker"
rm -rf "$root"/nodeimg-wanted-* "$root"/nodeimg-lost-* "$work" "$runtime/register-store"
