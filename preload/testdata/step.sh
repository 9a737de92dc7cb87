#!/bin/sh
# Runs a command as a build step sees the world: no network but loopback, and only the capabilities that a container has by default.
# It is meant to run in new namespaces (unshare --net --mount --pid --fork).
set -eu
ip link set lo up
exec setpriv --bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap "$@"
