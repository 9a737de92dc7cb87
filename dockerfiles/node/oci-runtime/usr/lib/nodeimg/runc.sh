#!/bin/sh
# runc for containers whose processes are to survive a shortage of memory in a node that may not grant it: lowering oom_score_adj needs
# CAP_SYS_RESOURCE in the initial user namespace, and runc fails without. Like containerd's restrict_oom_score_adj, it keeps the score of
# this process where a lower one is asked for. The runtime's own arguments pass unchanged.
set -eu

bundle=
previous=
for argument in "$@"; do
	case $previous in
	--bundle | -b) bundle=$argument ;;
	esac
	case $argument in
	--bundle=*) bundle=${argument#--bundle=} ;;
	esac
	previous=$argument
done

if [ -n "$bundle" ]; then
	own=$(cat /proc/self/oom_score_adj)
	# Inside of strings JSON has a backslash before every quotation mark, so this is the field and nothing else.
	wanted=$(sed -n 's/.*"oomScoreAdj": *\(-\{0,1\}[0-9][0-9]*\).*/\1/p' "$bundle/config.json")
	if [ -n "$wanted" ] && [ "$wanted" -lt "$own" ]; then
		sed "s/\"oomScoreAdj\": *-\{0,1\}[0-9][0-9]*/\"oomScoreAdj\":$own/" "$bundle/config.json" >"$bundle/config.json.new"
		mv "$bundle/config.json.new" "$bundle/config.json"
	fi
fi
exec /usr/local/bin/runc "$@"
