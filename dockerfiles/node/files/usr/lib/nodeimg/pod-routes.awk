# Prints what ip(8) has to do on a node so that its pods and those of the other nodes find each other; nothing when part is no part of
# subnet. See connect-pods.sh.
#   part     the node's part of the pod subnet, for instance 10.244.3.0/24
#   subnet   the pod subnet, for instance 10.244.0.0/16
#   cluster  what tells the cluster from others, at least 16 hexadecimal digits
#   device   the network device to the other nodes

function number(hex,    i, n) {
	for (i = 1; i <= length(hex); i++) n = n * 16 + index("123456789abcdef", substr(hex, i, 1))
	return n + 0
}
# parse fills g with the groups of an address, of eight bits or of sixteen.
function parse(text, g,    halves, left, right, l, r, i) {
	if (text !~ /:/) {
		width = 8
		count = split(text, g, ".")
		return
	}
	width = 16
	count = 8
	split(tolower(text), halves, "::")
	l = split(halves[1], left, ":")
	r = split(halves[2], right, ":")
	for (i = 1; i <= 8; i++) g[i] = number(i <= l ? left[i] : i > 8 - r ? right[i - 8 + r] : "0")
}
function bit(g, at) { return int(g[int(at / width) + 1] / 2 ^ (width - 1 - at % width)) % 2 }
# numbered is the address of the part with the number n.
function numbered(n,    g, i, at, text) {
	for (i = 1; i <= count; i++) g[i] = own[i]
	for (at = to - 1; at >= from; at--) {
		g[int(at / width) + 1] += (n % 2 - bit(own, at)) * 2 ^ (width - 1 - at % width)
		n = int(n / 2)
	}
	for (i = 1; i <= count; i++) text = text (i > 1 ? width == 8 ? "." : ":" : "") sprintf(width == 8 ? "%d" : "%x", g[i])
	return text "/" to
}
# answering is the address at which the node with the part n answers.
function answering(n,    a) {
	if (width == 16) return sprintf("fe80::%s:%s:%s:%x", substr(cluster, 1, 4), substr(cluster, 5, 4), substr(cluster, 9, 4), n)
	a = (number(substr(cluster, 1, 7)) + n) % (15 * 2 ^ 24)
	return sprintf("%d.%d.%d.%d", 240 + a / 2 ^ 24, a / 2 ^ 16 % 256, a / 2 ^ 8 % 256, a % 256)
}
BEGIN {
	split(subnet, s, "/")
	parse(s[1], all)
	from = s[2] + 0
	families = width
	split(part, p, "/")
	parse(p[1], own)
	to = p[2] + 0
	if (width != families || from > to || to - from > 16) exit
	for (at = 0; at < from; at++) if (bit(own, at) != bit(all, at)) exit
	for (at = from; at < to; at++) mine = mine * 2 + bit(own, at)
	print "address replace " answering(mine) (width == 8 ? "/32" : "/64 nodad") " dev " device
	for (n = 0; n < 2 ^ (to - from); n++) {
		if (n == mine) print "route replace unreachable " numbered(n) " metric 4096"
		else print "route replace " numbered(n) " via " answering(n) " dev " device " onlink metric 4096"
	}
}