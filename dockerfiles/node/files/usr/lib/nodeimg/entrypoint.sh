#!/bin/sh
# PID 1 of a node container until it hands over to systemd: makes the container look enough like a machine for systemd, containerd and
# the kubelet. It runs on every start and must be idempotent. The duties are those that stock kind and plain "docker run" expect.
set -eu

state=/var/lib/nodeimg
runtime=/run/nodeimg

say() { echo "nodeimg: $*" >&2; }

in_user_namespace() {
	# The initial user namespace maps every id onto itself.
	[ "$(tr -s ' ' </proc/self/uid_map)" != " 0 0 4294967295" ]
}

check_cgroups() {
	if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
		for controller in cpu cpuset memory pids; do
			grep -qw "$controller" /sys/fs/cgroup/cgroup.controllers || {
				say "ERROR: the cgroup v2 controller $controller is not delegated to this container; delegate it on the host"
				exit 1
			}
		done
		return
	fi
	# Stock kind waits for this line: systemd says nothing on the console of some cgroup v1 hosts.
	say "detected cgroup v1"
}

prepare_mounts() {
	mount --make-rshared / 2>/dev/null || say "cannot make / a shared mount; mount propagation into pods is off"
	if ! in_user_namespace; then
		# bind: only this mount turns read-only, never a sysfs that is shared with the host (--network=host).
		mount -o remount,bind,ro /sys 2>/dev/null || true
	fi
	# Without --tmpfs /run systemd mounts it later and hides what was written there before. What is mounted below it must not be hidden.
	grep -qE '^([^ ]+ ){4}/run[ /]' /proc/self/mountinfo || mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /run 2>/dev/null ||
		say "cannot mount a tmpfs at /run; the kubelet may miss settings of this container"
	# The kubelet insists on /dev/kmsg, which unprivileged containers do not have.
	[ -e /dev/kmsg ] || ln -s /dev/null /dev/kmsg 2>/dev/null || true
}

new_identity() {
	rm -f /etc/machine-id
	systemd-machine-id-setup >/dev/null 2>&1 || true
	mkdir -p "$runtime"
	# cAdvisor and cloud providers tell nodes apart by these; in a container they would all read the host's.
	if [ -e /sys/class/dmi/id/product_uuid ]; then
		cat /proc/sys/kernel/random/uuid >"$runtime/product_uuid"
		mount -o ro,bind "$runtime/product_uuid" /sys/class/dmi/id/product_uuid 2>/dev/null || true
	fi
	if [ -e /sys/class/dmi/id/product_name ]; then
		echo nodeimg >"$runtime/product_name"
		mount -o ro,bind "$runtime/product_name" /sys/class/dmi/id/product_name 2>/dev/null || true
	fi
}

pass_proxy() {
	file=/etc/systemd/system.conf.d/nodeimg-proxy.conf
	rm -f "$file"
	line=
	for name in HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy; do
		value=$(printenv "$name" || true)
		[ -z "$value" ] || line="$line \"$name=$value\""
	done
	[ -n "$line" ] || return 0
	mkdir -p "${file%/*}"
	printf '[Manager]\nDefaultEnvironment=%s\n' "$line" >"$file"
}

select_iptables() {
	# Docker's DNS redirection was written into this network namespace by the host's iptables; the backends do not see each other's rules.
	# A save of the backend that wrote nothing can fail when the kernel lacks it, which is as good as empty.
	legacy=$(iptables-legacy-save 2>/dev/null | grep -c '^-' || true)
	nft=$(timeout 5 iptables-nft-save 2>/dev/null | grep -c '^-' || true)
	mode=nft
	[ "${legacy:-0}" -le "${nft:-0}" ] || mode=legacy
	iptables-"$mode" -t nat -S >/dev/null 2>&1 || mode=legacy
	for name in iptables ip6tables; do
		update-alternatives --set "$name" "/usr/sbin/$name-$mode" >/dev/null 2>&1 || true
	done
}

choose_family() {
	# The Engine's networks have IPv4 whatever else they have, so the addresses do not say what the cluster's are to be.
	case ${NODEIMG_IP_FAMILY:-ipv4} in
	ipv4) family=4 ;;
	ipv6) family=6 ;;
	*)
		say "ERROR: NODEIMG_IP_FAMILY is $NODEIMG_IP_FAMILY, expected ipv4 or ipv6"
		exit 1
		;;
	esac
}

# address_of and device_of print the container's first address of the family and its network device.
address_of() { ip "-$1" -o address show scope global 2>/dev/null | awk '{ sub("/.*", "", $4); print $4; exit }'; }
device_of() { ip "-$1" -o address show scope global 2>/dev/null | awk '{ print $2; exit }'; }

default_routes() {
	# On a network without a route out there is no default route, but host processes reach service addresses only through one: the packet
	# must be routable before it is rewritten. It leads to the bridge and no further.
	for each in 4 6; do
		device=$(device_of "$each")
		if [ -z "$device" ] || [ -n "$(ip "-$each" route show default 2>/dev/null)" ]; then continue; fi
		ip "-$each" route add default dev "$device" metric 4096 2>/dev/null || say "cannot add a default route for IPv$each"
	done
}

forward() {
	# A new network namespace takes its settings from the host, which need not forward; pods need it, for both address families.
	for knob in ipv4/ip_forward ipv6/conf/all/forwarding; do
		[ "$(cat "/proc/sys/net/$knob" 2>/dev/null || echo 1)" = 1 ] || echo 1 2>/dev/null >"/proc/sys/net/$knob" || say "cannot switch on /proc/sys/net/$knob"
	done
}

docker_dns() {
	# Docker's resolver answers on 127.0.0.11 through port redirections in this network namespace. /etc/resolv.conf is no witness: Docker
	# leaves it as this script has changed it on an earlier start.
	iptables-save -t nat 2>/dev/null >"$runtime/nat" && grep -q '^-A DOCKER_OUTPUT .*127\.0\.0\.11' "$runtime/nat"
}

rewrite_dns() {
	# Pods cannot reach 127.0.0.11, so the redirections are copied to an address that they can.
	address=$(ip -4 route show default | awk '$2 == "via" { print $3; exit }')
	[ -n "$address" ] || address=$(address_of 4)
	[ -n "$address" ] || return 0
	sed -e 's/-d 127\.0\.0\.11/-d '"$address"'/g' \
		-e 's/^-A OUTPUT \(.*\) -j DOCKER_OUTPUT/&\n-A PREROUTING \1 -j DOCKER_OUTPUT/' \
		-e 's/^-A DOCKER_POSTROUTING -s 127\.0\.0\.11\(.*\) -j SNAT --to-source :53/-A DOCKER_POSTROUTING -s 127.0.0.11\1 -j SNAT --to-source '"$address"':53/' \
		"$runtime/nat" >"$runtime/nat.new"
	iptables-restore <"$runtime/nat.new" || { say "cannot rewrite Docker's DNS redirection; pods will not resolve outside names"; return 0; }
	for knob in all "$(device_of 4)"; do
		echo 1 >"/proc/sys/net/ipv4/conf/$knob/route_localnet" 2>/dev/null || true
	done
	# resolv.conf is a bind mount: it can be written, not replaced. With --read-only it can only be covered.
	{
		echo "nameserver $address"
		[ "$family" = 4 ] || relay_dns
		sed '/^nameserver /d' /etc/resolv.conf
	} >"$runtime/resolv.conf"
	cat "$runtime/resolv.conf" 2>/dev/null >/etc/resolv.conf || mount -o bind "$runtime/resolv.conf" /etc/resolv.conf ||
		say "cannot change /etc/resolv.conf; pods will not resolve outside names"
}

relay_dns() {
	# Pods that have IPv6 alone cannot reach an IPv4 address at all: nodeimg-dns@.service answers them at the node's own.
	own=$(address_of 6)
	[ -n "$own" ] || return 0
	printf 'NODEIMG_DNS=%s\nNODEIMG_DNS6=%s\n' "$address" "$own" >"$runtime/dns.env"
	echo "nameserver $own"
}

configure_kubelet() {
	arguments="--fail-swap-on=false"
	in_user_namespace && arguments="$arguments --feature-gates=KubeletInUserNamespace=true"
	echo "NODEIMG_KUBELET_ARGS=$arguments" >"$runtime/kubelet.env"
}

render_kubeadm() {
	address=$(address_of "$family")
	[ -n "$address" ] || { say "this container has no global IPv$family address; /etc/nodeimg/kubeadm.yaml is not written"; return 0; }
	# A name outlives a change of address, for kube-proxy's configuration too; without Docker's resolver other nodes do not know it.
	endpoint=$address
	[ "$family" = 4 ] || endpoint="[$address]"
	[ -z "$resolver" ] || endpoint=$(hostname)
	mkdir -p /etc/nodeimg
	sed -e "s/@NODE_ADDRESS@/$address/g" -e "s/@CONTROL_PLANE@/$endpoint/g" \
		/usr/share/nodeimg/kubeadm.yaml >/etc/nodeimg/kubeadm.yaml.new
	mv /etc/nodeimg/kubeadm.yaml.new /etc/nodeimg/kubeadm.yaml
}

choose_network() {
	# NODEIMG_CNI goes above the choice of the image; auto is what needs no daemon, for images that have a pod network at all. What another
	# start has chosen is taken away; flannel's configuration holds only as long as its subnet file, which was in /run: with it alone the
	# node would count as Ready too early.
	network=$(cat /usr/share/nodeimg/cni)
	case ${NODEIMG_CNI:-}/$network in
	/* | auto/none) ;;
	auto/*) network=bridge ;;
	*) network=$NODEIMG_CNI ;;
	esac
	rm -f /etc/cni/net.d/10-flannel.conflist /etc/cni/net.d/99-nodeimg.conflist
	device=$(device_of "$family")
	case $network in
	flannel | none) ;;
	bridge)
		# Whatever else a user installs comes first by its name.
		sed "s/@MTU@/$(cat "/sys/class/net/$device/mtu" 2>/dev/null || echo 1500)/" /usr/share/nodeimg/bridge.conflist >/etc/cni/net.d/99-nodeimg.conflist
		;;
	*)
		say "ERROR: NODEIMG_CNI is $network, expected auto, bridge, flannel or none"
		exit 1
		;;
	esac
	mkdir -p /etc/nodeimg
	printf 'NODEIMG_CNI=%s\nNODEIMG_DEVICE=%s\n' "$network" "$device" >/etc/nodeimg/network.env
}

mounted() {
	# What the user mounts below these folders, a file or a folder, is the host's. The folders may be mounts themselves.
	awk -v file="$1/" '$5 ~ "^/(etc/kubernetes|var/lib/kubelet|kind)/" && index(file, $5 "/") == 1 { found = 1 } END { exit !found }' /proc/self/mountinfo
}

note_addresses() {
	printf '%s\n' "$@" >"$state/address.new"
	mv "$state/address.new" "$state/address"
}

follow_address() {
	# A restarted container can come back with another address, which Kubernetes wrote into its files and certificates.
	address=$(address_of "$family")
	[ -n "$address" ] || return 0
	mkdir -p "$state"
	# While a change is not done, perhaps because a start was cut short, the file has every address that may be in use yet, one in a line.
	old=$(grep -vxF "$address" "$state/address" 2>/dev/null || true)
	if [ -z "$old" ]; then
		[ -s "$state/address" ] || note_addresses "$address"
		return 0
	fi
	note_addresses "$old" "$address"
	old=$(printf '%s' "$old" | tr '\n' '|')
	say "address changed from $old to $address"
	# Left by a sed that was killed: the kubelet would run it as a static pod.
	rm -f /etc/kubernetes/sed?????? /etc/kubernetes/manifests/sed??????
	unfinished=
	# An address must not be found in a longer one; one of IPv4 may have a port behind it.
	beside='[^0-9.]'
	[ "$family" = 4 ] || beside='[^0-9a-f:]'
	pattern="(^|$beside)($(printf '%s' "$old" | sed 's/\./\\./g'))($beside|\$)"
	find /etc/kubernetes /var/lib/kubelet /kind -maxdepth 2 -type f \( -name '*.conf' -o -name '*.yaml' -o -name '*.env' \) \
		-exec grep -lE -e "$pattern" {} + >"$runtime/outdated" || true
	while read -r file; do
		if mounted "$file"; then
			say "$file is mounted into the node and keeps the address $old"
		else
			sed -i -E "s/$pattern/\1$address\3/g" "$file" || { say "cannot change $file"; unfinished=1; }
		fi
	done <"$runtime/outdated"
	# What the control plane was really made with, where nodeimg, the user or stock kind has left it.
	for config in /etc/kubernetes/kubeadm.yaml /kind/kubeadm.conf /etc/nodeimg/kubeadm.yaml; do
		[ ! -f "$config" ] || break
	done
	if [ -f /etc/kubernetes/pki/ca.key ] && [ -f "$config" ]; then
		for cert in apiserver etcd/server etcd/peer; do
			rm -f "/etc/kubernetes/pki/$cert.crt" "/etc/kubernetes/pki/$cert.key" || true
		done
		for phase in apiserver etcd-server etcd-peer; do
			kubeadm init phase certs "$phase" --config "$config" >/dev/null || { say "cannot reissue the $phase certificate"; unfinished=1; }
		done
	fi
	# Last: the next start does all of it again that was cut short or has failed.
	[ -n "$unfinished" ] || note_addresses "$address"
}

check_cgroups
prepare_mounts
new_identity
pass_proxy
select_iptables
forward
choose_family
default_routes
resolver=
if docker_dns; then
	resolver=docker
	rewrite_dns
fi
/usr/lib/nodeimg/configure-runtime.sh
configure_kubelet
render_kubeadm
choose_network
follow_address
rm -f "$runtime/nat" "$runtime/nat.new" "$runtime/outdated"
exec "$@"
