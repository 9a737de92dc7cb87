#!/bin/sh
# Turns an installed distribution into a node: which units run, which alternatives hold, and no identity that all nodes would share.
set -eu

systemctl set-default multi-user.target
systemctl enable kubelet.service nodeimg-dns@tcp.service nodeimg-dns@udp.service nodeimg-flannel.path nodeimg-network.path
# Whichever the node's runtime has.
for unit in containerd.service cri-docker.service crio.service docker.service nodeimg-store.service; do
	if [ -e "/etc/systemd/system/$unit" ]; then
		systemctl enable "$unit"
	fi
done

# Units that make no sense, or do harm, in a container: they write the host's kernel settings, wait for devices or
# passwords, or want a console. haproxy runs only in a load balancer's container, without systemd.
for unit in \
	apt-daily-upgrade.timer apt-daily.timer console-getty.service dev-hugepages.mount dev-mqueue.mount dpkg-db-backup.timer \
	e2scrub_all.timer e2scrub_reap.service fstrim.timer getty.target getty-static.service getty@tty1.service haproxy.service \
	ifupdown-wait-online.service kmod-static-nodes.service modprobe@.service networking.service proc-sys-fs-binfmt_misc.automount \
	sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount systemd-binfmt.service systemd-firstboot.service \
	systemd-logind.service systemd-machine-id-commit.service systemd-modules-load.service systemd-networkd.service \
	systemd-networkd-wait-online.service systemd-random-seed.service systemd-remount-fs.service systemd-resolved.service \
	systemd-ask-password-console.path systemd-ask-password-wall.path systemd-sysctl.service systemd-timesyncd.service systemd-udev-trigger.service systemd-udevd.service \
	systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-update-utmp.service systemd-update-utmp-runlevel.service; do
	systemctl mask "$unit"
done

mkdir -p /etc/kubernetes/manifests /etc/cni/net.d /opt/cni/bin /var/lib/kubelet /kind
ln -sf /usr/lib/nodeimg/pod-address.sh /opt/cni/bin/nodeimg-ipam
ln -sf /usr/sbin/iptables-nft /etc/alternatives/iptables
ln -sf /usr/sbin/ip6tables-nft /etc/alternatives/ip6tables
if [ -d /usr/local/share/ca-certificates/nodeimg ]; then
	update-ca-certificates
fi

# What Docker copies for each node, because a volume is at /var, is only what changes: most of it were the lists of the packages' files.
if [ -d /var/lib/dpkg/info ] && [ ! -L /var/lib/dpkg/info ]; then
	mv /var/lib/dpkg/info /usr/lib/nodeimg/dpkg-info
	ln -s /usr/lib/nodeimg/dpkg-info /var/lib/dpkg/info
fi

# Every node makes its own on its first start.
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id /etc/hostname
