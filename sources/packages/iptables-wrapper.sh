#!/bin/sh
# Runs iptables, ip6tables, their -save and -restore, with the backend that the node uses: nft or legacy. Whoever programs packet filters
# in a node from a container must use the node's own backend, because the kernel applies the rules of both.
# The kubelet leaves a chain as a hint; without one the backend with more rules wins, and nft when neither has any. What was found once
# holds for the life of the container. Only the shell's own commands are used: the image has no others.
set -eu

name=${0##*/}
decision=/run/iptables-backend

# hinted COMMAND…: does what COMMAND prints hold a chain of the kubelet?
hinted() {
    "$@" 2>/dev/null | {
        while read -r line; do
            case $line in
                ":KUBE-IPTABLES-HINT "* | ":KUBE-KUBELET-CANARY "*) exit 0 ;;
            esac
        done
        exit 1
    }
}

# rules BACKEND: how many rules it holds.
rules() {
    {
        "/usr/sbin/iptables-$1-save" 2>/dev/null || true
        "/usr/sbin/ip6tables-$1-save" 2>/dev/null || true
    } | {
        count=0
        while read -r line; do
            case $line in
                -*) count=$((count + 1)) ;;
            esac
        done
        echo "$count"
    }
}

backend=
if [ -r "$decision" ]; then
    read -r backend <"$decision" || true
fi
case $backend in
    nft | legacy) exec "/usr/sbin/xtables-$backend-multi" "$name" "$@" ;;
esac

# Legacy tables are read as a whole: naming one would create it.
if hinted /usr/sbin/iptables-nft-save -t mangle || hinted /usr/sbin/ip6tables-nft-save -t mangle; then
    backend=nft
elif hinted /usr/sbin/iptables-legacy-save || hinted /usr/sbin/ip6tables-legacy-save; then
    backend=legacy
else
    nft=$(rules nft)
    legacy=$(rules legacy)
    if [ "$legacy" -gt "$nft" ]; then
        backend=legacy
    elif [ "$nft" -gt 0 ]; then
        backend=nft
    fi
fi
# Without any evidence the question stays open for the next call.
if [ -n "$backend" ]; then
    (echo "$backend" >"$decision") 2>/dev/null || true
fi
exec "/usr/sbin/xtables-${backend:-nft}-multi" "$name" "$@"
