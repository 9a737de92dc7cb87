#!/bin/sh
# Gives the container runtime flannel's configuration, which the shipped manifest leaves beside flannel's subnet file. Runs when that file
# appears: a runtime with a configuration makes the node Ready, and pods of a Ready node must be able to start.
set -eu

from=${NODEIMG_FLANNEL:-/run/flannel}/10-flannel.conflist
to=${NODEIMG_CNI:-/etc/cni/net.d}/10-flannel.conflist

# A manifest other than the shipped one installs the configuration itself.
[ -e "$from" ] || exit 0
# By rename inside the folder: runtimes watch it and must not read half a file.
cp "$from" "$to.new"
mv -f "$to.new" "$to"
