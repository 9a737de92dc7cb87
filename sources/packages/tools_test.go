package packages_test

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/fetch"
	"github.com/nodeimg/nodeimg/sources/packages"
)

// toolsLayer makes the layer in a cache of its own.
func toolsLayer(t *testing.T) (v1.Layer, *cache.Cache) {
	t.Helper()
	host := hostDistribution(t)
	u, err := packages.Distribution(host.distro, host.codename, platform, nil)
	if err != nil {
		t.Fatal(err)
	}
	locked, err := u.ResolveTools(t.Context(), askingCache(t, u))
	if err != nil {
		t.Fatal(err)
	}
	c := privateCache(t, locked)
	start := time.Now()
	layer, err := packages.ToolsLayer(t.Context(), c, locked, epoch)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d packages packed in %s", len(locked), time.Since(start))
	start = time.Now()
	again, err := packages.ToolsLayer(t.Context(), c, locked, epoch)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("answered from the cache in %s", time.Since(start))
	first, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if second, err := again.Digest(); err != nil || first != second {
		t.Errorf("%s, then %s (%v)", first, second, err)
	}
	return layer, c
}

func TestToolsLayer(t *testing.T) {
	layer, _ := toolsLayer(t)
	if err := validate.Layer(layer); err != nil {
		t.Error(err)
	}
	other, _ := toolsLayer(t)
	first, _ := layer.Digest()
	if second, err := other.Digest(); err != nil || first != second {
		t.Errorf("packed twice: %s and %s (%v)", first, second, err)
	}
	size, err := layer.Size()
	if err != nil {
		t.Fatal(err)
	}
	content, err := layer.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	var names []string
	for archive := tar.NewReader(content); ; {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
		if header.ModTime.After(epoch) || header.Uname != "" {
			t.Errorf("%s is of %s and belongs to %q", header.Name, header.ModTime, header.Uname)
		}
	}
	if links := names[:4]; !slices.Equal(links, []string{"bin", "lib", "lib64", "sbin"}) || !slices.IsSorted(names[4:]) {
		t.Errorf("the entries begin with %s", links)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "usr/share/man") || strings.HasPrefix(name, "bin/") || strings.HasPrefix(name, "lib/") {
			t.Errorf("the layer holds %s", name)
		}
	}
	t.Logf("%d entries, %d bytes", len(names), size)
}

// TestIptablesWrapper runs the tools in their own root with real packet filters, in a network namespace for each case.
func TestIptablesWrapper(t *testing.T) {
	layer, _ := toolsLayer(t)
	content, err := layer.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	root := t.TempDir()
	untar(t, root, content)
	for _, test := range []struct{ name, setup, want string }{
		{"nothing yet", "", ""},
		{"hint by nft", "iptables-nft -t mangle -N KUBE-IPTABLES-HINT", "nft"},
		{"older hint by nft", "ip6tables-nft -t mangle -N KUBE-KUBELET-CANARY", "nft"},
		{"hint by legacy", "iptables-legacy -t mangle -N KUBE-IPTABLES-HINT", "legacy"},
		{"hint by legacy in IPv6 against rules of nft", "ip6tables-legacy -t mangle -N KUBE-KUBELET-CANARY; iptables-nft -A INPUT -j ACCEPT", "legacy"},
		{"more rules in legacy", "iptables-legacy -A INPUT -j ACCEPT; iptables-legacy -A INPUT -j ACCEPT; iptables-nft -A INPUT -j ACCEPT", "legacy"},
		{"more rules in nft", "iptables-legacy -A INPUT -j ACCEPT; ip6tables-nft -A INPUT -j ACCEPT; iptables-nft -A INPUT -j ACCEPT", "nft"},
	} {
		t.Run(test.name, func(t *testing.T) {
			decision := filepath.Join(root, "run/iptables-backend")
			if err := os.Remove(decision); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			shown := test.want
			if shown == "" {
				shown = "nft"
			}
			script := "set -eu\n" + test.setup + `
for name in iptables ip6tables iptables-save ip6tables-save iptables-restore ip6tables-restore; do $name --version; done
iptables -t nat -N NODEIMG
iptables -t nat -A NODEIMG -p tcp --dport 80 -m comment --comment "made by the wrapper" -j DNAT --to-destination 127.0.0.1:8080
iptables-` + shown + `-save -t nat | { while read -r line; do case $line in *"made by the wrapper"*) exit 0 ;; esac; done; exit 1; }
iptables -L -n >/dev/null; ip6tables -L -n >/dev/null
echo ":MORE - [0:0]" >/tmp/rules
{ echo "*filter"; echo ":MORE - [0:0]"; echo "-A MORE -j ACCEPT"; echo COMMIT; } | iptables-restore --noflush
iptables -C MORE -j ACCEPT
nft list ruleset >/dev/null; conntrack -V >/dev/null; ipset --version >/dev/null; modprobe --version >/dev/null
`
			output := inChroot(t, root, "/bin/sh", "-c", script)
			word := map[string]string{"nft": "nf_tables", "legacy": "legacy"}[shown]
			if n := strings.Count(output, "("+word+")"); n != 6 {
				t.Errorf("%d of 6 programs are %s:\n%s", n, word, output)
			}
			if text, err := os.ReadFile(decision); test.want != "" && (err != nil || strings.TrimSpace(string(text)) != test.want) {
				t.Errorf("decision %q (%v)", text, err)
			}
		})
	}
	if output, err := exec.CommandContext(t.Context(), "shellcheck", "iptables-wrapper.sh", "merge-usr.sh").CombinedOutput(); err != nil {
		t.Errorf("shellcheck: %v: %s", err, output)
	}
}

func TestToolsLayerSaysWhatIsMissing(t *testing.T) {
	host := hostDistribution(t)
	u, err := packages.Distribution(host.distro, host.codename, platform, nil)
	if err != nil {
		t.Fatal(err)
	}
	shared := sharedCache(t)
	locked, err := u.Empty().Resolve(t.Context(), askingCache(t, u), []string{"netbase"})
	if err != nil {
		t.Fatal(err)
	}
	if len(locked) != 1 {
		t.Errorf("netbase alone became %v", locked)
	}
	if err := packages.Fetch(t.Context(), &fetch.Client{Cache: shared}, locked); err != nil {
		t.Fatal(err)
	}
	if _, err := packages.ToolsLayer(t.Context(), privateCache(t, locked), locked, epoch); err == nil || !strings.Contains(err.Error(), "no iptables") {
		t.Errorf("got %v", err)
	}
	empty, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := packages.ToolsLayer(t.Context(), empty, locked, epoch); err == nil || !strings.Contains(err.Error(), "fetch it first") {
		t.Errorf("got %v", err)
	}
}
