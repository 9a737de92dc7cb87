#!/bin/sh
# Runs in the emulated machine at boot, on its second serial line: unpacks the test's files, runs its script, says how that ended
# and switches the machine off.
set -eu

status=0
mkdir -p /payload
if tar -xf /dev/disk/by-id/virtio-payload -C /payload; then
  cd /payload
  ./run || status=$?
else
  status=$?
fi
if [ "$status" -eq 0 ]; then
  echo "NODEIMG-RESULT: ok"
else
  echo "NODEIMG-RESULT: fail $status"
fi
sync
systemctl poweroff --force
