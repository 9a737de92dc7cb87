// Package vm runs a script in an emulated machine that is like what users have: Debian or Ubuntu with systemd on cgroup v2, a full
// set of capabilities and the distribution's own Docker Engine. The machine's disk is bootstrapped from the host's own package
// sources once and kept in the tests' cache; every run works on a throw-away copy and without any network. The script's output comes
// back over a serial line as it is written.
package vm
