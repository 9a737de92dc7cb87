#!/bin/sh
# Installs, without network, exactly the package files in the directory given: the set was resolved and verified outside.
# usage: install-packages.sh DIRECTORY
set -eu

export DEBIAN_FRONTEND=noninteractive LC_ALL=C
# Package scripts must not start services in a build step.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
archives=$(mktemp -d)
mkdir "$archives/partial"
apt-get install -y --no-install-recommends --allow-downgrades \
	-o Dpkg::Options::=--force-confold -o Dpkg::Use-Pty=0 -o "Dir::Cache::archives=$archives" "$1"/*.deb
rm -rf /usr/sbin/policy-rc.d "$archives"

# Caches, backups and logs: none is read later, all differ from build to build.
rm -rf /var/cache/apt/*.bin /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache /var/lib/dpkg/*-old
find /var/log -type f -delete
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id
