#!/bin/sh
# Makes the members of etcd know each other by their nodes' names: kubeadm lets them join with addresses, which are in etcd's own database
# and which Docker gives to others after a restart. Runs in a control plane once all have joined, and again without harm.
set -eu

# Etcd may be elsewhere.
[ -e /etc/kubernetes/manifests/etcd.yaml ] || exit 0
pki=/etc/kubernetes/pki/etcd
container=$(crictl ps --quiet --state running --name '^etcd$')
[ -n "$container" ] || { echo "etcd does not run" >&2; exit 1; }

etcdctl() {
	crictl exec "$container" etcdctl --endpoints=https://localhost:2379 --cacert="$pki/ca.crt" --cert="$pki/server.crt" --key="$pki/server.key" "$@"
}

# A line is ID, status, name, peer URLs, client URLs, learner; a kubeadm member is called as its node.
list=$(etcdctl member list)
echo "$list" | while IFS=' ,' read -r id _ name peers _; do
	[ "$peers" = "https://$name:2380" ] || etcdctl member update "$id" --peer-urls="https://$name:2380" </dev/null >/dev/null
done
