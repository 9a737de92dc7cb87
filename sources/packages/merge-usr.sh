#!/bin/sh
# A setup hook of mmdebstrap: makes /bin, /lib, /lib64 and /sbin links into /usr before the first package is extracted, as every release
# since Debian 12 wants it. With that the package usr-is-merged is content, and usrmerge with its fifty megabytes of Perl stays away.
set -eu

for name in bin lib lib64 sbin; do
    if [ ! -e "$1/$name" ]; then
        mkdir -p "$1/usr/$name"
        ln -s "usr/$name" "$1/$name"
    fi
done
