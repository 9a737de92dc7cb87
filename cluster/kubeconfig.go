package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/recipes"
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

// CheckKubeconfig says whether MergeKubeconfig can read the kubeconfig at path, which need not be there. The error is a *recipes.InputError
// when it is none.
func CheckKubeconfig(path string) error {
	_, err := readKubeconfig(path)
	return err
}

func readKubeconfig(path string) (*api.Config, error) {
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return api.NewConfig(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig %s: %w", path, err)
	}
	config, err := clientcmd.Load(text)
	if err != nil {
		return nil, recipes.InputErrorf("kubeconfig %s: %v; mend it, or name another file with --kubeconfig", path, err)
	}
	return config, nil
}

// MergeKubeconfig adds the one context of config to the kubeconfig at path and makes it the current one. The file appears by rename, and
// nobody else who locks as kubectl does writes at the same time.
func MergeKubeconfig(ctx context.Context, path string, config []byte) error {
	added, err := clientcmd.Load(config)
	if err != nil {
		return fmt.Errorf("adding to kubeconfig %s: %w", path, err)
	}
	return changeKubeconfig(ctx, path, func(all *api.Config) bool {
		for name, c := range added.Clusters {
			all.Clusters[name] = c
		}
		for name, a := range added.AuthInfos {
			all.AuthInfos[name] = a
		}
		for name, c := range added.Contexts {
			all.Contexts[name] = c
		}
		all.CurrentContext = added.CurrentContext
		return true
	})
}

// ForgetKubeconfig takes the cluster's context, cluster and user out of the kubeconfig at path. A file without them is left alone.
func ForgetKubeconfig(ctx context.Context, path, cluster string) error {
	own := ContextName(cluster)
	return changeKubeconfig(ctx, path, func(all *api.Config) bool {
		_, known := all.Contexts[own]
		_, cluster := all.Clusters[own]
		_, user := all.AuthInfos[own]
		if !known && !cluster && !user {
			return false
		}
		delete(all.Contexts, own)
		delete(all.Clusters, own)
		delete(all.AuthInfos, own)
		if all.CurrentContext == own {
			all.CurrentContext = ""
		}
		return true
	})
}

// lockPoll is how often a lock is tried that somebody else has, and lockLimit how long: changing a file takes milliseconds.
const (
	lockPoll  = 50 * time.Millisecond
	lockLimit = 10 * time.Second
)

// lockKubeconfig waits until nobody else changes the file. Another nodeimg is kept out by a lock on the folder, which ends with the
// process; kubectl by the file that it makes itself (k8s.io/client-go/tools/clientcmd, lockFile). Of a nodeimg that was killed such a file
// can stay; kubectl's have no permissions, so it can be told.
func lockKubeconfig(ctx context.Context, path string) (unlock func(), err error) {
	limited, cancel := context.WithTimeout(ctx, lockLimit)
	defer cancel()
	folder := flock.New(filepath.Dir(path), flock.SetFlag(os.O_RDONLY))
	// Not every file system can lock a folder; on those kubectl's way has to do.
	alone, _ := folder.TryLockContext(limited, lockPoll)
	file := path + ".lock"
	for {
		f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			return func() {
				_ = f.Close()
				_ = os.Remove(file)
				_ = folder.Close()
			}, nil
		}
		if info, statErr := os.Lstat(file); alone && statErr == nil && info.Mode().Perm() != 0 {
			_ = os.Remove(file)
			continue
		}
		if !os.IsExist(err) {
			_ = folder.Close()
			return nil, err
		}
		select {
		case <-limited.Done():
			_ = folder.Close()
			return nil, fmt.Errorf("somebody else has locked it with %s; remove that file if nobody does: %w", file, context.Cause(limited))
		case <-time.After(lockPoll):
		}
	}
}

// changeKubeconfig reads, changes and replaces the file, while nobody else does.
func changeKubeconfig(ctx context.Context, path string, change func(*api.Config) bool) (err error) {
	fail := func(err error) error { return fmt.Errorf("changing kubeconfig %s: %w", path, err) }
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fail(err)
	}
	unlock, err := lockKubeconfig(ctx, path)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	// What the path points to is replaced, not the link.
	real := path
	if target, err := filepath.EvalSymlinks(path); err == nil {
		real = target
	}
	// The name is always the same: what a nodeimg left that was killed goes with the next change.
	staged := real + ".nodeimg"
	if err := os.Remove(staged); err != nil && !os.IsNotExist(err) {
		return fail(err)
	}
	all, err := readKubeconfig(path)
	if err != nil {
		return err
	}
	if !change(all) {
		return nil
	}
	text, err := clientcmd.Write(*all)
	if err != nil {
		return fail(err)
	}
	defer os.Remove(staged)
	if err := os.WriteFile(staged, text, 0o600); err != nil {
		return fail(err)
	}
	if err := os.Rename(staged, real); err != nil {
		return fail(err)
	}
	return nil
}
