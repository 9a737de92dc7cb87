package clusters

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/nodeimg/nodeimg/test/internal/application"
	"github.com/nodeimg/nodeimg/test/internal/command"
)

// mirroredPod runs an image of a registry that there is only by its mirror, on the node, and a service leads to it from every node.
const mirroredPod = `
apiVersion: v1
kind: Pod
metadata: {name: mirrored, labels: {app: mirrored}}
spec:
  nodeName: described-worker-2
  containers:
  - {name: app, image: "mirrored.test/team/app:v1", imagePullPolicy: Always, readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {name: mirrored}
spec: {type: NodePort, selector: {app: mirrored}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
`

// TestConfig makes the cluster of testdata/cluster.yaml and asks its nodes and Kubernetes for everything that is described there, also
// on a worker that comes later.
func TestConfig(t *testing.T) {
	l := clusters(t)
	dir := t.TempDir()
	mirror, authority := startMirror(t, l.network("described-by-the-test"))
	port := freePort(t)
	write(t, filepath.Join(dir, "authority.pem"), string(authority))
	write(t, filepath.Join(dir, "data", "hello"), "from the host")
	text, err := os.ReadFile("testdata/cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "cluster.yaml")
	const workersImage = "nodeimg-clusters/workers:own"
	l.docker("tag", clusterImage, workersImage)
	write(t, file, strings.NewReplacer("@IMAGE@", clusterImage, "@WORKERS@", workersImage, "@PORT@", port, "@MIRROR@", mirror).Replace(string(text)))

	reached := command.Stopwatch(t)
	l.must("up", "--config", file, "--env", "ADDED=by-a-flag")
	reached("three nodes Ready")
	d := descriptions{l, "described"}
	d.kubernetes()
	d.node("described-worker-1", "plain", "42", "")
	d.special("described-worker-2")
	reached("looked at")

	d.apply(mirroredPod)
	d.kubectl("wait", "--for=condition=Ready", "pod/mirrored", "--timeout="+wait.String())
	if body := l.get("http://127.0.0.1:" + port); !strings.Contains(body, application.Greeting) {
		t.Errorf("the published port answers %q", body)
	}
	if out := l.docker("port", "described-worker-1", "30081/udp"); !strings.HasPrefix(out, "127.0.0.1:") {
		t.Errorf("the port without a number on the host is at %q", out)
	}
	reached("pulled through the mirror")

	// A worker that comes later is of the same image as the others, whatever its name means by then.
	l.docker("tag", l.emptyImage("workers-newer", "--change", "LABEL dev.nodeimg.kubernetes=v1.99.0"), workersImage)
	l.must("resize", "--name", "described", "--workers", "3")
	reached("one more worker Ready")
	if images := strings.Fields(l.docker("inspect", "--format", "{{.Image}}", "described-worker-2", "described-worker-3")); images[0] != images[1] {
		t.Errorf("a worker that came later is of the image %s, the one before of %s", images[1], images[0])
	}
	d.special("described-worker-3")
	d.unseen("not-to-be-shown", "patched-in")
	l.must("resize", "--name", "described", "--workers", "1")
	l.refused(2, "must not be newer", "resize", "--name", "described", "--workers", "2")
	reached("an image of no worker any more refused")
	l.must("down", "--name", "described")
	reached("removed")
}

// dualService makes a service of both families whose pod runs on the worker.
const dualService = `
apiVersion: v1
kind: Pod
metadata: {name: app, labels: {app: app}}
spec:
  nodeName: dual-worker-1
  containers:
  - {name: app, image: "example/dual:v1", imagePullPolicy: Never, readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec: {ipFamilyPolicy: RequireDualStack, selector: {app: app}, ports: [{port: 80, targetPort: 8080}]}
`

// TestDual makes a cluster of both families and reaches a pod of another node by both of its service's addresses.
func TestDual(t *testing.T) {
	l := clusters(t)
	reached := command.Stopwatch(t)
	l.must("up", clusterImage, "--name", "dual", "--workers", "1", "--privileged", "--ip-family", "dual")
	reached("two nodes Ready")
	l.must("load", "--name", "dual", "archive:"+savedApp(t, "example/dual:v1"))
	d := descriptions{l, "dual"}
	d.apply(dualService)
	d.kubectl("wait", "--for=condition=Ready", "pod/app", "--timeout="+wait.String())
	addresses := strings.Fields(d.kubectl("get", "pod/app", "-o", "jsonpath={.status.podIPs[*].ip}") + " " + d.kubectl("get", "service/app", "-o", "jsonpath={.spec.clusterIPs[*]}"))
	if len(addresses) != 4 {
		t.Fatalf("pod and service have the addresses %v, want one of each family for both", addresses)
	}
	const ask = `exec 3<>"/dev/tcp/$0/$1" && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && cat <&3`
	for i, port := range []string{"8080", "8080", "80", "80"} {
		var answer string
		l.until(func() bool {
			out, err := exec.CommandContext(t.Context(), "docker", "--host", l.host, "exec", "dual-control-plane-1", "timeout", "5", "bash", "-c", ask, addresses[i], port).CombinedOutput()
			answer = string(out)
			return err == nil
		})
		d.has(addresses[i], answer, application.Greeting)
	}
	reached("reached by both families")
	l.must("down", "--name", "dual")
}

// descriptions asks a cluster whether it is as described.
type descriptions struct {
	launcher
	name string
}

func (d descriptions) in(node string, command ...string) string {
	d.t.Helper()
	return d.docker(append([]string{"exec", node}, command...)...)
}

func (d descriptions) kubectl(args ...string) string {
	d.t.Helper()
	return d.launcher.kubectl(d.name, args...)
}

// apply makes objects once the default service account is there.
func (d descriptions) apply(objects string) {
	d.t.Helper()
	d.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout="+wait.String())
	cmd := exec.CommandContext(d.t.Context(), "docker", append([]string{"exec", "-i", d.name + "-control-plane-1"}, kubectl("apply", "-f", "-")...)...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+d.host)
	cmd.Stdin = strings.NewReader(objects)
	if out, err := cmd.CombinedOutput(); err != nil {
		d.t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
}

// has fails the test when what a command said lacks the words.
func (d descriptions) has(what, said string, words ...string) {
	d.t.Helper()
	for _, w := range words {
		if !strings.Contains(said, w) {
			d.t.Errorf("%s has no %q:\n%s", what, w, said)
		}
	}
}

// kubernetes looks at what the cluster has in common.
func (d descriptions) kubernetes() {
	d.t.Helper()
	d.has("the API", d.kubectl("get", "--raw", "/apis/internal.apiserver.k8s.io/v1alpha1"), "storageversions")
	const enabled = `kubernetes_feature_enabled{name="NodeLogQuery",stage="BETA"} 1`
	d.has("the API server", d.kubectl("get", "--raw", "/metrics"), enabled)
	d.has("the kubelet", d.kubectl("get", "--raw", "/api/v1/nodes/described-worker-1/proxy/metrics"), enabled)
	for _, component := range []string{"kube-controller-manager", "kube-scheduler"} {
		pod := d.kubectl("-n", "kube-system", "get", "pod", component+"-described-control-plane-1", "-o", "yaml")
		d.has(component, pod, "--feature-gates=NodeLogQuery=true")
		if component == "kube-controller-manager" {
			d.has(component, pod, "--v=3", "--cluster-cidr=10.77.0.0/16", "--service-cluster-ip-range=10.78.0.0/16")
		}
	}
	d.has("kube-proxy", d.kubectl("-n", "kube-system", "get", "configmap", "kube-proxy", "-o", "yaml"), "mode: nftables", "nodePortAddresses:", "NodeLogQuery: true")
	// kube-proxy is Ready before it has written any.
	d.eventually("the node has the rules of services", func() bool {
		return strings.Contains(d.in("described-worker-1", "nft", "list", "tables"), "kube-proxy")
	})
	d.has("the service kubernetes", d.kubectl("get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"), "10.78.0.1")
	d.has("CoreDNS", d.kubectl("-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-dns", "-o", "jsonpath={.items[*].status.podIP}"), "10.77.")
	d.has("the kubelet", d.in("described-worker-1", "cat", "/var/lib/kubelet/config.yaml"), "clusterDomain: described.test")
	d.has("the control plane's kubelet", d.kubectl("get", "--raw", "/api/v1/nodes/described-control-plane-1/proxy/configz"), `"maxPods":42`, `"containerLogMaxFiles":4`)
	d.has("the control plane", d.kubectl("get", "node", "described-control-plane-1", "--show-labels"), "tier=control")
}

// node looks at what every node has, and at what it may not have of others.
func (d descriptions) node(name, pool, maxPods, taints string) {
	d.t.Helper()
	d.has(name, d.in(name, "sh", "-c", `tr '\0' '\n' </proc/1/environ`), "EVERYWHERE=in-all-nodes", "ADDED=by-a-flag", "described-control-plane-1,")
	// A node keeps the taint of one that is not Ready for a moment after it has become Ready.
	d.succeeds(func(ctx context.Context) error {
		said, err := d.ask(ctx, "described-control-plane-1", "get", "node", name, "-o", "jsonpath={.metadata.labels.pool} {.status.capacity.pods} {.spec.taints}")
		if want := strings.TrimSpace(pool + " " + maxPods + " " + taints); err == nil && strings.TrimSpace(said) != want {
			err = fmt.Errorf("%s has pool, pods and taints %q, want %q", name, said, want)
		}
		return err
	})
	d.has("containerd of "+name, d.in(name, "cat", "/etc/containerd/certs.d/mirrored.test/hosts.toml"), "https://")
}

// special looks at a worker of the second group.
func (d descriptions) special(name string) {
	d.t.Helper()
	d.node(name, "special", "17", `[{"effect":"NoSchedule","key":"dedicated","value":"special"}]`)
	d.has(name, d.kubectl("get", "node", name), "special")
	patched := []string{`"maxPods":17`, `"containerLogMaxFiles":3`, `"containerLogMaxSize":"3Mi"`, `"registryBurst":7`}
	d.has("the kubelet of "+name, d.kubectl("get", "--raw", "/api/v1/nodes/"+name+"/proxy/configz"), patched...)
	for _, want := range append(patched, `"containerLogMaxFiles":4`) {
		if other := d.kubectl("get", "--raw", "/api/v1/nodes/described-worker-1/proxy/configz"); strings.Contains(other, want) {
			d.t.Errorf("the kubelet of another group has %s", want)
		}
	}
	d.has(name, d.in(name, "sh", "-c", `tr '\0' '\n' </proc/1/environ`), "SECRET=not-to-be-shown")
	d.has("the mount", d.in(name, "sh", "-c", "cat /data/hello; touch /data/new 2>&1 || true"), "from the host", "Read-only")
	d.has("the memory", d.in(name, "sh", "-c", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || true"), "1572864000")
	d.has("the processors", d.in(name, "sh", "-c", "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || true"), "150000")
}

// unseen fails the test when values of the environment, of nodes or of patches, are where many programs look, or in what logs exports of
// static pods.
func (d descriptions) unseen(values ...string) {
	d.t.Helper()
	seen := d.docker("inspect", "--format", "{{json .Config.Labels}}", "described-control-plane-1", "described-worker-2", "described-worker-3")
	report := filepath.Join(d.t.TempDir(), "report")
	d.must("logs", "--name", d.name, report)
	manifests := filepath.Join(report, "described-control-plane-1", "manifests")
	for component, variable := range map[string]string{"kube-apiserver": "HTTPS_PROXY", "kube-controller-manager": "PATCHED"} {
		manifest, err := os.ReadFile(filepath.Join(manifests, component+".yaml"))
		if err != nil {
			d.t.Fatal(err)
		}
		d.has(component, string(manifest), "image:", "name: "+variable)
		seen += string(manifest)
	}
	for _, value := range append(values, "proxy.invalid") {
		if strings.Contains(seen, value) {
			d.t.Errorf("%q can be seen:\n%s", value, seen)
		}
	}
}

// network makes a network that goes with the test, and returns this host's address on it.
func (l launcher) network(name string) (gateway string) {
	l.t.Helper()
	l.docker("network", "create", name)
	l.t.Cleanup(func() {
		cmd := exec.CommandContext(context.WithoutCancel(l.t.Context()), "docker", "network", "rm", name)
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+l.host)
		if out, err := cmd.CombinedOutput(); err != nil {
			l.t.Errorf("down has removed a network that is not its own: %v\n%s", err, out)
		}
	})
	return strings.TrimSpace(l.docker("network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", name))
}

// startMirror starts a registry with the application at the address, and returns its URL and the certificate to trust.
func startMirror(t *testing.T, address string) (url string, authority []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a test of nodeimg"}, IPAddresses: []net.IP{net.ParseIP(address)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	_ = server.Listener.Close()
	server.Listener = listener
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	authority = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(authority)
	// A mirror's path goes before the names of repositories.
	reference, err := name.ParseReference(strings.TrimPrefix(server.URL, "https://") + "/behind/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}
	if err := remote.Write(reference, application.For(t), remote.WithContext(t.Context()), remote.WithTransport(transport)); err != nil {
		t.Fatal(err)
	}
	return server.URL + "/behind", authority
}

// freePort is a port of loopback that nobody listens at.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return fmt.Sprint(listener.Addr().(*net.TCPAddr).Port)
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// get returns what a server answers, once it does.
func (l launcher) get(url string) (body string) {
	l.t.Helper()
	client := http.Client{Timeout: 10 * time.Second}
	l.until(func() bool {
		response, err := client.Get(url)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		body = string(text)
		return err == nil
	})
	return body
}
