#!/bin/sh
# runc for a node that has less privilege than Kubernetes' containers ask for. Without CAP_SYS_RESOURCE in the initial user namespace no
# process may lower oom_score_adj, and no process can have a capability that the node itself lacks; runc fails over both. Like
# containerd, this keeps the own score where a lower one is asked for (restrict_oom_score_adj) and grants a privileged container what
# there is. The runtime's arguments pass unchanged.
set -eu

# In the order of their numbers (linux/capability.h).
capabilities="CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST
NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME
SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF
CHECKPOINT_RESTORE"

# restrict prints the container's configuration with less in it. Inside of strings JSON has a backslash before every quotation mark, so
# that a quoted name and a colon are a field and nothing else; in lists of capabilities there are no other strings.
restrict() {
	own=$(cat /proc/self/oom_score_adj)
	wanted=$(sed -n 's/.*"oomScoreAdj": *\(-\{0,1\}[0-9][0-9]*\).*/\1/p' "$1")
	edits=
	if [ -n "$wanted" ] && [ "$wanted" -lt "$own" ]; then
		edits="s/\"oomScoreAdj\": *-\{0,1\}[0-9][0-9]*/\"oomScoreAdj\":$own/;"
	fi
	bounding=$(sed -n 's/^CapBnd:[[:space:]]*//p' /proc/self/status)
	number=0
	for name in $capabilities; do
		if [ $((0x$bounding >> number & 1)) = 0 ]; then
			edits="${edits}s/\"CAP_$name\",//g;s/,\"CAP_$name\"//g;s/\[\"CAP_$name\"\]/[]/g;"
		fi
		number=$((number + 1))
	done
	sed "$edits" "$1"
}

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
	restrict "$bundle/config.json" >"$bundle/config.json.new"
	mv "$bundle/config.json.new" "$bundle/config.json"
fi
exec /usr/local/bin/runc "$@"
