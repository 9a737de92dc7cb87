#!/bin/sh
# Connects the pods of this node with those of the other nodes, which are all on one network, without a daemon: nothing has to be done
# when nodes come, go or change their address. Kubernetes cuts the pod subnet into equal parts and gives each node one. From a part's
# number and the cluster's authority follows an address that nobody else uses; each node answers at that of its own part, and has a
# route to every part by that part's address. So clusters with one pod subnet do not mix when they share a network.
#
# These addresses are of 240.0.0.0/4, which nobody has, and are seen in ARP alone; for IPv6 they are link-local.
set -eu

export KUBECONFIG="${NODEIMG_KUBECONFIG:-/etc/kubernetes/kubelet.conf}"
certificate=${NODEIMG_CERTIFICATE:-/var/lib/kubelet/pki/kubelet-client-current.pem}
authority=${NODEIMG_AUTHORITY:-/etc/kubernetes/pki/ca.crt}
runtime=${NODEIMG_RUNTIME:-/run/nodeimg}
device=$NODEIMG_DEVICE

# await_parts prints the node's parts of the pod subnet, one for each address family.
await_parts() {
	node=$(openssl x509 -in "$certificate" -noout -subject -nameopt multiline | sed -n 's/.*commonName *= *system:node://p')
	server=$(sed -n 's|^ *server: *https://||p' "$KUBECONFIG")
	parts=
	while [ -z "$parts" ]; do
		# The API server of a new cluster takes its time, and each kubectl costs as much as a hundred of these.
		until socat -u OPEN:/dev/null "TCP:$server" 2>/dev/null; do sleep 0.1; done
		kubectl get nodes --field-selector "metadata.name=$node" -o 'jsonpath={.spec.podCIDRs[*]}{"\n"}' --watch >"$work/parts" 2>/dev/null &
		while read -r parts && [ -z "$parts" ]; do :; done <"$work/parts"
		kill $! 2>/dev/null || true
		wait $! 2>/dev/null || true
		[ -n "$parts" ] || sleep 1
	done
	echo "$parts"
}

# await_subnets prints the pod subnets of the cluster, or nothing when it has none.
await_subnets() {
	until kubectl get configmap kubeadm-config -n kube-system -o 'jsonpath={.data.ClusterConfiguration}' 2>/dev/null >"$work/cluster"; do sleep 0.5; done
	sed -n 's/^ *podSubnet: *//p' "$work/cluster" | tr -d '"' | tr ',' ' '
}

# masquerade lets pods speak to the world beyond the pod subnet as the node, and to other pods as themselves.
masquerade() {
	tables=iptables
	case $1 in *:*) tables=ip6tables ;; esac
	for do in -C -A; do
		"$tables" -w -t nat "$do" POSTROUTING -s "$1" ! -d "$2" -j MASQUERADE --random-fully 2>/dev/null && return
	done
	return 1
}

# service_subnet prints the subnet of the cluster's services in the address family of the part.
service_subnet() {
	sed -n 's/^ *serviceSubnet: *//p' "$work/cluster" | tr -d '"' | tr ',' '\n' | case $1 in *:*) grep : ;; *) grep -v : ;; esac
}

# refuse answers pods that ask for a service which nobody serves yet: before kube-proxy has begun their packets would be lost in the
# world, and who waits for the answer does so for half a minute.
refuse() {
	tables=iptables
	case $1 in *:*) tables=ip6tables ;; esac
	for do in -C -A; do
		"$tables" -w "$do" FORWARD -s "$1" -d "$2" -j REJECT 2>/dev/null && return
	done
	return 1
}

# announce tells the other nodes, which may remember an earlier start, at once where the addresses are.
announce() {
	for knob in ipv4/conf/"$device"/arp_notify ipv6/conf/"$device"/ndisc_notify; do
		echo 1 2>/dev/null >"/proc/sys/net/$knob" || true
	done
	ip link set dev "$device" address "$(cat "/sys/class/net/$device/address")"
}

mkdir -p "$runtime"
work=$(mktemp -d "$runtime/network.XXXXXX")
trap 'rm -rf "$work"' EXIT
# What kubectl notes about the API server is of no use afterwards.
export KUBECACHEDIR="$work/cache"
mkfifo "$work/parts"
cluster=$(sha256sum "$authority")
parts=$(await_parts)
subnets=$(await_subnets)
ranges=
routes=
for part in $parts; do
	: >"$work/commands"
	for subnet in $subnets; do
		awk -v cluster="$cluster" -v device="$device" -v part="$part" -v subnet="$subnet" -f "${0%/*}/pod-routes.awk" >"$work/commands"
		if [ -s "$work/commands" ]; then break; fi
	done
	# A cluster that does not tell its pod subnet has pods on this node alone.
	[ -s "$work/commands" ] || subnet=$part
	ip -batch "$work/commands"
	masquerade "$part" "$subnet"
	services=$(service_subnet "$part" || true)
	[ -z "$services" ] || refuse "$part" "$services" || echo "cannot refuse packets to services that nobody serves yet" >&2
	ranges="$ranges${ranges:+, }[{\"subnet\": \"$part\"}]"
	case $part in
	*:*) routes="$routes${routes:+, }{\"dst\": \"::/0\"}" ;;
	*) routes="$routes${routes:+, }{\"dst\": \"0.0.0.0/0\"}" ;;
	esac
done
announce
cat >"$runtime/ipam.json.new" <<-IPAM
	{"cniVersion": "1.0.0", "name": "nodeimg", "ipam": {"type": "host-local", "dataDir": "/run/nodeimg/addresses", "ranges": [$ranges], "routes": [$routes]}}
IPAM
mv "$runtime/ipam.json.new" "$runtime/ipam.json"
