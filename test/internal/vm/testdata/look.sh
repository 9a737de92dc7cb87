#!/bin/sh
# Says, in the emulated machine, what the tests rely on.
set -eu
cat greeting
tr -d '\0' </dev/disk/by-id/virtio-archive
[ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] && echo "cgroup v2"
setpriv --dump | grep -q 'bounding set:.*sys_resource' && echo "capability sys_resource"
[ -z "$(ip -o route show default)" ] && echo "no network"
docker info --format '{{.ServerVersion}} {{.CgroupVersion}} {{.CgroupDriver}} {{.Driver}}'
cat /proc/uptime
