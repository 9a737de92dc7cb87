#!/bin/sh
# Installs, without network, exactly the package files in the directory given: the set was resolved and verified outside.
# usage: install-packages.sh DIRECTORY
set -eu

export DEBIAN_FRONTEND=noninteractive LC_ALL=C
# Package scripts must not start services in a build step.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get install -y --no-install-recommends --no-download --allow-downgrades \
	-o Dpkg::Options::=--force-confold -o Dir::Cache=/tmp/nodeimg-apt "$1"/*.deb
rm -f /usr/sbin/policy-rc.d
