#!/bin/sh
# The only process of the container that stands before the API servers of a cluster with several control planes. It needs no privilege,
# no systemd and nothing that can be written but /run.
# usage: load-balancer.sh CONTROL-PLANE...    the names of their containers, which Docker's resolver knows
set -eu

[ $# -gt 0 ] || { echo "usage: load-balancer.sh CONTROL-PLANE..." >&2; exit 2; }
port=6443
config=/run/haproxy.cfg

# With an IPv6 address this container is reached by both families through one socket.
bind="*:$port"
[ ! -e /proc/net/if_inet6 ] || bind=":::$port v4v6"

{
	# The limit is explicit because haproxy would make its tables as large as the limit of open files, which some Engines set without bound;
	# it needs two files for each connection, and others allow no more than 4096. A tunnel may be silent for long: kubectl exec, watches.
	cat <<-CONFIG
		global
		  log stdout format raw local0 notice
		  maxconn 2000
		defaults
		  mode tcp
		  log global
		  timeout connect 3s
		  timeout client 1m
		  timeout server 1m
		  timeout tunnel 24h
		  timeout check 3s
		  option clitcpka
		  option srvtcpka
		# Nodes come back with other addresses; an answer of Docker's resolver holds for a second.
		resolvers docker
		  nameserver docker 127.0.0.11:53
		  resolve_retries 3
		  timeout resolve 1s
		  timeout retry 1s
		  hold valid 1s
		frontend api
		  bind $bind
		  default_backend control-planes
		backend control-planes
		  # 401 is the answer where the anonymous may not ask anything; 403 is that of an API server that does not know its own rules yet.
		  option httpchk GET /readyz
		  http-check expect rstatus ^(2|401)
		  # Sessions of a node that has vanished would hang until the kernel gives up.
		  default-server check check-ssl verify none inter 1s downinter 500ms fall 2 rise 1 on-marked-down shutdown-sessions resolvers docker resolve-prefer ipv4 init-addr none
	CONFIG
	for name; do
		echo "  server $name $name:$port"
	done
} >"$config"
exec haproxy -W -db -f "$config"
