#!/bin/bash
# Installs the distribution packages that building, testing and the shipped recipes need, if any is missing, and checks Go.
set -eu

# Every name is the same in Debian and Ubuntu.
packages=(
  runc mmdebstrap shellcheck qemu-system-x86 libseccomp-dev pkg-config gcc libc6-dev socat iptables nftables
  e2fsprogs iproute2 ca-certificates curl git make xz-utils zstd podman skopeo
)

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done

if [ "${#missing[@]}" -gt 0 ]; then
  echo "installing ${missing[*]}" >&2
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "installing packages needs root: run this as root, or install sudo" >&2; exit 1; }
    as_root=(sudo)
  fi
  export DEBIAN_FRONTEND=noninteractive
  "${as_root[@]}" apt-get update -q </dev/null >&2
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" </dev/null >&2
fi

if ! command -v go >/dev/null; then
  echo "Go is missing: install Go 1.21 or newer (https://go.dev/doc/install); it fetches the version that go.mod names by itself" >&2
  exit 1
fi
# Run in the module, the go command switches to the toolchain that go.mod asks for, or says why it cannot.
if ! go version >&2; then
  echo "this Go is too old for $(grep '^go ' go.mod) and cannot fetch a newer one: install it (https://go.dev/doc/install) and unset GOTOOLCHAIN=local" >&2
  exit 1
fi
