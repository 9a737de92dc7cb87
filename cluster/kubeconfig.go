package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
)

// ContextName is the name of the cluster's context, cluster and user in a kubeconfig.
func ContextName(cluster string) string { return "nodeimg-" + cluster }

// discoveryConfig is a kubeconfig without a user, from which a node learns where the API server is and whom to believe.
func discoveryConfig(server, authority string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: ""
  cluster:
    server: %s
    certificate-authority-data: %s
contexts: []
users: []
`, server, authority)
}

// Kubeconfig returns the administrator's kubeconfig of a cluster, for use on the Engine's host, with the one context ContextName. The error
// is a *recipes.InputError when there is no such cluster.
func Kubeconfig(ctx context.Context, engine *dockerengine.Engine, name string) ([]byte, error) {
	found, err := get(ctx, engine, name)
	if err != nil {
		return nil, err
	}
	node, ok := found.runningControlPlane()
	front := node
	if found.LoadBalancer != nil {
		front = *found.LoadBalancer
	}
	published := slices.IndexFunc(front.Published, func(p dockerengine.PublishedPort) bool { return p.Container == apiPort })
	if !ok || published < 0 {
		return nil, fmt.Errorf("cluster %s has no control plane that can be reached; nodeimg start --name %[1]s starts it, nodeimg down --name %[1]s removes it", name)
	}
	text, err := engine.Exec(ctx, node.ID, nil, nil, "cat", adminConfig)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig of %s: %w", name, err)
	}
	in, err := clientcmd.Load([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig of %s: %w", name, err)
	}
	current := in.Contexts[in.CurrentContext]
	if current == nil || in.Clusters[current.Cluster] == nil || in.AuthInfos[current.AuthInfo] == nil {
		return nil, fmt.Errorf("reading the kubeconfig of %s: its current context %q is not whole", name, in.CurrentContext)
	}
	listens := front.Published[published].Host
	address := netip.AddrPortFrom(reached(listens.Addr()), listens.Port())
	own := ContextName(name)
	out := api.NewConfig()
	out.Clusters[own] = in.Clusters[current.Cluster]
	out.Clusters[own].Server = "https://" + address.String()
	out.AuthInfos[own] = in.AuthInfos[current.AuthInfo]
	out.Contexts[own] = &api.Context{Cluster: own, AuthInfo: own}
	out.CurrentContext = own
	return clientcmd.Write(*out)
}

// reached is the address at which this host reaches whatever listens at the address: that of the loopback device for all of a family.
func reached(listens netip.Addr) netip.Addr {
	switch {
	case !listens.IsUnspecified():
		return listens
	case listens.Is6():
		return netip.IPv6Loopback()
	default:
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
}
