package cluster

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/nodeimg/nodeimg/cluster/config"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
)

// proxyVariables lead programs to a proxy, directVariables past it (https://pkg.go.dev/golang.org/x/net/http/httpproxy).
var (
	proxyVariables  = []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"}
	directVariables = []string{"NO_PROXY", "no_proxy"}
)

// passProxies lets what belongs to the cluster pass the proxies that the containers of its nodes are given, if any: kubeadm and the kubelet
// take them too, and no proxy knows the way to a node.
func passProxies(ctx context.Context, engine *dockerengine.Engine, c config.Cluster, containers []dockerengine.ContainerSpec) error {
	if !slices.ContainsFunc(containers, func(s dockerengine.ContainerSpec) bool { return hasProxy(s.Env) }) {
		return nil
	}
	network, _, err := engine.FindNetwork(ctx, containers[0].Network)
	if err != nil {
		return err
	}
	direct := []string{"localhost", "127.0.0.1", "::1", ".svc", "." + cmp.Or(c.Spec.Networking.DNSDomain, "cluster.local"), loadBalancerName(c.Metadata.Name)}
	for _, n := range c.Spec.Members() {
		direct = append(direct, nodeName(c.Metadata.Name, n.Role, n.Number))
	}
	direct = append(direct, network.Subnets...)
	pods, services := c.Spec.Networking.Subnets()
	direct = append(direct, strings.Split(pods, ",")...)
	direct = append(direct, strings.Split(services, ",")...)
	for i := range containers {
		if hasProxy(containers[i].Env) {
			containers[i].Env = withDirect(containers[i].Env, direct)
		}
	}
	return nil
}

func hasProxy(env []string) bool {
	return slices.ContainsFunc(env, func(variable string) bool {
		name, value, _ := strings.Cut(variable, "=")
		return value != "" && slices.Contains(proxyVariables, name)
	})
}

// withDirect adds hosts to those that the environment says to reach without a proxy.
func withDirect(env, hosts []string) []string {
	var said []string
	others := slices.DeleteFunc(slices.Clone(env), func(variable string) bool {
		name, value, _ := strings.Cut(variable, "=")
		if slices.Contains(directVariables, name) {
			said = append(said, strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })...)
			return true
		}
		return false
	})
	for _, h := range hosts {
		if !slices.Contains(said, h) {
			said = append(said, h)
		}
	}
	for _, name := range directVariables {
		others = append(others, name+"="+strings.Join(said, ","))
	}
	return others
}
