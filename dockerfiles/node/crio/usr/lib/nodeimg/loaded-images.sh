#!/bin/sh
# Keeps the images that "nodeimg load" brings while CRI-O runs: an additional image store of containers/storage on the node's volume.
#
#   loaded-images.sh prepare           makes an empty store, unless there is one; the entrypoint runs it
#   loaded-images.sh show              writes what describes all images of the node to standard output, as a tar
#   loaded-images.sh take OLD NEW      puts the store NEW with its trees, a tar on standard input, in the place of the store OLD
#
# A store is a folder of stores/ that never changes; "current" leads to the one in use and is replaced in one step, so that CRI-O sees all of
# a store or nothing of it. CRI-O reads the records anew when the content of their lock files differs from what it was.
set -eu

preloaded=/usr/lib/nodeimg/containers
root=/var/lib/nodeimg/images

say() { echo "nodeimg: $*" >&2; }

lock() {
	exec 9>"$root/lock"
	flock "$@" 9
}

prepare() {
	mkdir -p "$root/trees" "$root/stores"
	# What a load left that ended with the node.
	rm -rf "$root/incoming"
	[ ! -e "$root/current" ] || return 0
	empty=$root/stores/empty
	mkdir -p "$empty/overlay/l" "$empty/overlay-layers" "$empty/overlay-images"
	echo '[]' >"$empty/overlay-layers/layers.json"
	echo '[]' >"$empty/overlay-images/images.json"
	: >"$empty/overlay-layers/layers.lock"
	: >"$empty/overlay-images/images.lock"
	: >"$empty/trees"
	cp "$preloaded/pinned.conf" "$empty/pinned.conf"
	ln -sfn stores/empty "$root/current"
}

show() {
	lock -s
	graph=/var/lib/containers/storage
	set -- --directory "$root" "$(readlink "$root/current")" --directory "$preloaded" overlay-layers/layers.json overlay-images/images.json
	# Those of CRI-O itself are volatile; before the first pod there are none.
	for containers in overlay-containers/containers.json overlay-containers/volatile-containers.json; do
		[ ! -e "$graph/$containers" ] || set -- "$@" --directory "$graph" "$containers"
	done
	tar --create "$@"
}

take() {
	old=$1
	new=$2
	lock
	if [ "$(readlink "$root/current")" != "stores/$old" ]; then
		say "other images were loaded meanwhile"
		exit 75
	fi
	rm -rf "$root/incoming"
	mkdir "$root/incoming"
	trap 'rm -rf "$root/incoming"' EXIT
	tar --extract --directory "$root/incoming" --xattrs --xattrs-include='*' --numeric-owner --same-owner --same-permissions --delay-directory-restore
	if [ ! -e "$root/incoming/whole" ]; then
		say "the images did not arrive whole"
		exit 1
	fi
	for tree in "$root/incoming/trees"/*; do
		[ -d "$tree" ] || continue
		# One that is there belongs to no store: a load ended between this step and the next.
		rm -rf "$root/trees/${tree##*/}"
		mv "$tree" "$root/trees/"
	done
	rm -rf "$root/stores/$new"
	mv "$root/incoming/store" "$root/stores/$new"
	ln -sfn "stores/$new" "$root/next"
	mv -T "$root/next" "$root/current"
	systemctl reload crio
	remove_unused
}

remove_unused() {
	current=$(readlink "$root/current")
	for store in "$root/stores"/*; do
		[ "stores/${store##*/}" = "$current" ] || rm -rf "$store"
	done
	for tree in "$root/trees"/*; do
		[ -d "$tree" ] || continue
		grep -qx "${tree##*/}" "$root/current/trees" || rm -rf "$tree"
	done
}

command=$1
shift
case $command in
prepare) prepare ;;
show) show ;;
take) take "$@" ;;
*)
	say "ERROR: $command is no command of loaded-images.sh"
	exit 1
	;;
esac
