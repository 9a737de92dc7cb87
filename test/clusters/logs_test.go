package clusters

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// exportsLogs exports the logs of the cluster one, which has been stopped and started, with all nodes answering and with one that does not.
func exportsLogs(l launcher) {
	t := l.t
	token := strings.TrimSpace(l.docker(append([]string{"exec", "one-control-plane-1"}, "kubeadm", "token", "create", "--kubeconfig", "/etc/kubernetes/admin.conf")...))
	admin, err := os.ReadFile(l.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	_, key, ok := strings.Cut(string(admin), "client-key-data: ")
	if key = strings.TrimSpace(key); !ok || len(key) < 100 {
		t.Fatalf("no key in the kubeconfig")
	}
	key, _, _ = strings.Cut(key, "\n")
	dir := filepath.Join(t.TempDir(), "report")
	if out := l.must("logs", "--name", "one", dir); out != dir+"\n" {
		t.Errorf("logs printed %q", out)
	}
	for _, want := range []string{"engine.json", "cluster/nodes-pods.yaml", "cluster/events.txt"} {
		hasContent(l, dir, want)
	}
	for _, node := range []string{"one-control-plane-1", "one-worker-1"} {
		for _, want := range []string{"container.json", "console.txt", "journal.txt", "kubelet.txt", "runtime.txt", "units.txt", "crictl-ps.txt", "crictl-images.txt",
			"kubeadm.yaml", "pods/kube-system_kube-proxy-*/kube-proxy/*.log"} {
			hasContent(l, dir, node+"/"+want)
		}
	}
	hasContent(l, dir, "one-control-plane-1/manifests/kube-apiserver.yaml")
	if journal, err := os.ReadFile(filepath.Join(dir, "one-control-plane-1", "journal.txt")); err != nil || bytes.Count(journal, []byte("Journal started")) < 2 {
		t.Errorf("the journal does not tell of both starts of the node: %d bytes (%v)", len(journal), err)
	}
	if err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if strings.HasSuffix(path, ".failed.txt") {
			t.Errorf("%s: %s", path, text)
		}
		for _, secret := range []string{"PRIVATE KEY", "client-key-data", token, key, "value-in-a-pod"} {
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("%s holds %q", path, secret)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	l.refused(2, "not empty", "logs", "--name", "one", dir)
	l.refused(2, "there is no cluster other", "logs", "--name", "other", dir+"-other")
	if _, err := os.Stat(dir + "-other"); err == nil {
		t.Error("a refused export left its folder")
	}

	l.docker("pause", "one-worker-1")
	defer l.docker("unpause", "one-worker-1")
	l.must("logs", "--name", "one", dir+"-paused")
	hasContent(l, dir+"-paused", "one-worker-1/node.failed.txt")
	hasContent(l, dir+"-paused", "one-worker-1/container.json")
	hasContent(l, dir+"-paused", "one-control-plane-1/kubelet.txt")
}

// hasContent looks for a file that is not empty.
func hasContent(l launcher, dir, pattern string) {
	l.t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, file := range found {
		if info, err := os.Stat(file); err == nil && info.Size() > 0 {
			return
		}
	}
	l.t.Errorf("nothing in %s/%s (%v)", dir, pattern, found)
}
