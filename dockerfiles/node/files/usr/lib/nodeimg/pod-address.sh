#!/bin/sh
# The CNI plugin nodeimg-ipam: host-local with the range that Kubernetes gave this node. That range is known only after the node has
# registered, and with a configuration from the first start on the node is Ready at once; so pods wait here, for a moment, until
# connect-pods.sh has written the range. A kubelet would try a pod that failed again only after ten seconds.
set -eu

configuration=${NODEIMG_IPAM:-/run/nodeimg/ipam.json}

tenths=${NODEIMG_PATIENCE:-200}
while [ "$CNI_COMMAND" = ADD ] && [ ! -e "$configuration" ]; do
	if [ "$tenths" -le 0 ]; then
		# Error 11 is "try again later" (CNI specification 1.0, section 5).
		echo '{"cniVersion": "1.0.0", "code": 11, "msg": "the node has no pod subnet yet; see: journalctl -u nodeimg-network"}'
		exit 1
	fi
	tenths=$((tenths - 1))
	sleep 0.1
done
if [ -e "$configuration" ]; then
	exec "${0%/*}/host-local" <"$configuration"
fi
# Addresses of an earlier start went with it; taking one back needs a range of whatever kind.
exec "${0%/*}/host-local" <<-'ANY'
	{"cniVersion": "1.0.0", "name": "nodeimg", "ipam": {"type": "host-local", "dataDir": "/run/nodeimg/addresses", "ranges": [[{"subnet": "192.0.2.0/24"}]]}}
ANY
