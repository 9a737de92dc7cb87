// Package shim is the OCI runtime that nodeimg gives its own buildkitd on hosts with Sysbox: nodeimg itself, called by another name. It
// runs the marked steps with sysbox-runc and every other step with runc, both with runc's command line, which BuildKit speaks and
// sysbox-runc speaks with exceptions. What runs where it remembers in a folder that ends with the buildkitd.
package shim
