package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// kubeconfigFile is what Kubeconfig returns for a cluster.
func kubeconfigFile(t *testing.T, cluster string) []byte {
	t.Helper()
	own := ContextName(cluster)
	c := api.NewConfig()
	c.Clusters[own] = &api.Cluster{Server: "https://127.0.0.1:1"}
	c.AuthInfos[own] = &api.AuthInfo{Token: "t"}
	c.Contexts[own] = &api.Context{Cluster: own, AuthInfo: own}
	c.CurrentContext = own
	text, err := clientcmd.Write(*c)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func read(t *testing.T, path string) *api.Config {
	t.Helper()
	c, err := clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestKubeconfigTogether merges many clusters at the same time into a file that is a link and has another context, and forgets them again.
func TestKubeconfigTogether(t *testing.T) {
	dir := t.TempDir()
	real, path := filepath.Join(dir, "real"), filepath.Join(dir, "config")
	if err := os.WriteFile(real, kubeconfigFile(t, "kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", path); err != nil {
		t.Fatal(err)
	}
	const count = 8
	all := func(change func(name string) error) {
		var group sync.WaitGroup
		for i := range count {
			group.Go(func() {
				if err := change(fmt.Sprintf("c%d", i)); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
	}
	all(func(name string) error { return MergeKubeconfig(t.Context(), path, kubeconfigFile(t, name)) })
	if got := read(t, path); len(got.Contexts) != count+1 || len(got.Clusters) != count+1 || len(got.AuthInfos) != count+1 {
		t.Errorf("%d contexts, %d clusters, %d users; want %d of each", len(got.Contexts), len(got.Clusters), len(got.AuthInfos), count+1)
	}
	all(func(name string) error { return ForgetKubeconfig(t.Context(), path, name) })
	if got := read(t, path); len(got.Contexts) != 1 || got.Contexts[ContextName("kept")] == nil || got.CurrentContext != "" {
		t.Errorf("after all: contexts %v, current %q", got.Contexts, got.CurrentContext)
	}
	if target, err := os.Readlink(path); err != nil || target != "real" {
		t.Errorf("the link is gone: %q %v", target, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left in the folder: %v %v", entries, err)
	}
	if info, err := os.Stat(real); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("permissions: %v %v", info.Mode(), err)
	}
}

func TestKubeconfigThatIsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte("{not: [yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := CheckKubeconfig(t.Context(), path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
	if err := CheckKubeconfig(t.Context(), path+"-missing"); err != nil {
		t.Errorf("a file that is not there: %v", err)
	}
	err := MergeKubeconfig(t.Context(), path, kubeconfigFile(t, "new"))
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
	if text, _ := os.ReadFile(path); string(text) != "{not: [yaml" {
		t.Errorf("the file was changed: %q", text)
	}
	if err := ForgetKubeconfig(t.Context(), filepath.Join(t.TempDir(), "missing"), "new"); err != nil {
		t.Errorf("forgetting in a file that is not there: %v", err)
	}
}

// TestKubeconfigLocks changes a file whose locks a nodeimg has left that was killed, and one that kubectl has locked.
func TestKubeconfigLocks(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config")
	for _, left := range []string{path + ".lock", path + ".nodeimg"} {
		if err := os.WriteFile(left, []byte("token"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := MergeKubeconfig(t.Context(), path, kubeconfigFile(t, "new")); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left in the folder: %v %v", entries, err)
	}
	if err := os.WriteFile(path+".lock", nil, 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*lockPoll)
	defer cancel()
	if err := ForgetKubeconfig(ctx, path, "new"); err == nil || !strings.Contains(err.Error(), path+".lock") {
		t.Errorf("kubectl has locked the file: error %v", err)
	}
	if _, err := os.Stat(path + ".lock"); err != nil {
		t.Errorf("kubectl's lock is gone: %v", err)
	}
	if read(t, path).Contexts[ContextName("new")] == nil {
		t.Error("the file was changed all the same")
	}
}
