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
		[ -n "$parts" ] || sleep 0.2
	done
	echo "$parts"
}

# await_subnets prints the pod subnets of the cluster, or nothing when it has none.
await_subnets() {
	until kubectl get configmap kubeadm-config -n kube-system -o 'jsonpath={.data.ClusterConfiguration}' 2>/dev/null >"$work/cluster"; do sleep 0.5; done
	sed -n 's/^ *podSubnet: *//p' "$work/cluster" | tr -d '"' | tr ',' ' '
}

# commands prints what ip has to do for the node's part $1 of the subnet $2; nothing when it is no part of it.
commands() {
	sha256sum "$authority" | awk -v part="$1" -v subnet="$2" -v device="$device" '
	function number(hex,    i, n) {
		for (i = 1; i <= length(hex); i++) n = n * 16 + index("123456789abcdef", substr(hex, i, 1))
		return n + 0
	}
	# parse fills g with the groups of an address, of eight bits or of sixteen.
	function parse(text, g,    halves, left, right, l, r, i) {
		if (text !~ /:/) {
			width = 8
			count = split(text, g, ".")
			return
		}
		width = 16
		count = 8
		split(tolower(text), halves, "::")
		l = split(halves[1], left, ":")
		r = split(halves[2], right, ":")
		for (i = 1; i <= 8; i++) g[i] = number(i <= l ? left[i] : i > 8 - r ? right[i - 8 + r] : "0")
	}
	function bit(g, at) { return int(g[int(at / width) + 1] / 2 ^ (width - 1 - at % width)) % 2 }
	# numbered is the address of the part with the number n.
	function numbered(n,    g, i, at, text) {
		for (i = 1; i <= count; i++) g[i] = own[i]
		for (at = to - 1; at >= from; at--) {
			g[int(at / width) + 1] += (n % 2 - bit(own, at)) * 2 ^ (width - 1 - at % width)
			n = int(n / 2)
		}
		for (i = 1; i <= count; i++) text = text (i > 1 ? width == 8 ? "." : ":" : "") sprintf(width == 8 ? "%d" : "%x", g[i])
		return text "/" to
	}
	# answering is the address at which the node with the part n answers.
	function answering(n,    a) {
		if (width == 16) return sprintf("fe80::%s:%s:%s:%x", substr(id, 1, 4), substr(id, 5, 4), substr(id, 9, 4), n)
		a = (number(substr(id, 1, 7)) + n) % (15 * 2 ^ 24)
		return sprintf("%d.%d.%d.%d", 240 + a / 2 ^ 24, a / 2 ^ 16 % 256, a / 2 ^ 8 % 256, a % 256)
	}
	{
		id = $1
		split(subnet, s, "/")
		parse(s[1], all)
		from = s[2] + 0
		families = width
		split(part, p, "/")
		parse(p[1], own)
		to = p[2] + 0
		if (width != families || from > to || to - from > 16) exit
		for (at = 0; at < from; at++) if (bit(own, at) != bit(all, at)) exit
		for (at = from; at < to; at++) mine = mine * 2 + bit(own, at)
		print "address replace " answering(mine) (width == 8 ? "/32" : "/64 nodad") " dev " device
		for (n = 0; n < 2 ^ (to - from); n++) {
			if (n == mine) print "route replace unreachable " numbered(n) " metric 4096"
			else print "route replace " numbered(n) " via " answering(n) " dev " device " onlink metric 4096"
		}
	}'
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
mkfifo "$work/parts"
parts=$(await_parts)
subnets=$(await_subnets)
ranges=
routes=
for part in $parts; do
	: >"$work/commands"
	for subnet in $subnets; do
		commands "$part" "$subnet" >"$work/commands"
		if [ -s "$work/commands" ]; then break; fi
	done
	# A cluster that does not tell its pod subnet has pods on this node alone.
	[ -s "$work/commands" ] || subnet=$part
	ip -batch "$work/commands"
	masquerade "$part" "$subnet"
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
