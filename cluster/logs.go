package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/yaml"

	"github.com/nodeimg/nodeimg/internal/dockerengine"
	"github.com/nodeimg/nodeimg/internal/progress"
)

// nodeFiles are the files with what commands in a node print. None of them holds a key, a token or a kubeconfig. A node has another machine
// id after each start; the journals of its earlier ones have to be merged.
var nodeFiles = []struct {
	name    string
	command []string
}{
	{"journal.txt", []string{"journalctl", "--merge", "--no-pager", "-o", "short-iso"}},
	{"kubelet.txt", []string{"journalctl", "--merge", "--no-pager", "-o", "short-iso", "-u", "kubelet"}},
	{"runtime.txt", []string{"journalctl", "--merge", "--no-pager", "-o", "short-iso", "-u", "containerd", "-u", "docker", "-u", "cri-docker", "-u", "crio"}},
	{"units.txt", []string{"systemctl", "list-units", "--all", "--no-pager"}},
	{"crictl-ps.txt", []string{"crictl", "ps", "-a"}},
	{"crictl-images.txt", []string{"crictl", "images", "--digests"}},
	{"kubeadm.yaml", []string{"cat", shippedConfig}},
}

// nodeFolder is a folder that is copied, with the one that it lies in.
type nodeFolder struct {
	name, parent string
	// clean takes out of each file what nobody else may see; nil copies the files as they are.
	clean func([]byte) ([]byte, error)
}

// kubeadm gives static pods the proxy variables of the node, and those that patches have.
var nodeFolders = []nodeFolder{
	{name: "pods", parent: "/var/log"},
	{name: "manifests", parent: "/etc/kubernetes", clean: withoutValues},
}

const (
	// answerLimit is how long a node may take to run a command that does nothing.
	answerLimit = 10 * time.Second
	// exportLimit is how long one command may take whose output is kept.
	exportLimit = 2 * time.Minute
)

// Logs writes what a report of a bug needs into dir, which must be there: for each node a folder of its name, cluster with what the API
// server knows, and the Engine's version. Secrets, keys, tokens, kubeconfigs and the values of environment variables are not among it.
// What cannot be had yields a file NAME.failed.txt that says why. The error is a *recipes.InputError when there is no such cluster.
func Logs(ctx context.Context, engine *dockerengine.Engine, name, dir string) error {
	c, err := get(ctx, engine, name)
	if err != nil {
		return err
	}
	e := export{engine: engine, dir: dir}
	if err := e.file(ctx, "engine.json", func(ctx context.Context, w io.Writer) error { return copyBytes(w)(engine.DescribeEngine(ctx)) }); err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, n := range c.Containers() {
		group.Go(func() error {
			step := progress.Start(groupCtx, "[%s] export logs", n.Name)
			return step.Done(e.node(groupCtx, n))
		})
	}
	group.Go(func() error {
		step := progress.Start(groupCtx, "[%s] export what the API server knows", name)
		return step.Done(e.cluster(groupCtx, c.Nodes))
	})
	return group.Wait()
}

// export writes files below dir.
type export struct {
	engine *dockerengine.Engine
	dir    string
}

// node writes the folder of a node.
func (e export) node(ctx context.Context, n Node) error {
	if err := e.file(ctx, n.Name+"/container.json", func(ctx context.Context, w io.Writer) error {
		return copyBytes(w)(e.engine.DescribeContainer(ctx, n.ID))
	}); err != nil {
		return err
	}
	if err := e.file(ctx, n.Name+"/console.txt", func(ctx context.Context, w io.Writer) error { return e.engine.Console(ctx, n.ID, w) }); err != nil {
		return err
	}
	if n.Role() == RoleLoadBalancer {
		return nil
	}
	if err := e.answers(ctx, n); err != nil {
		return e.failed(ctx, n.Name+"/node", fmt.Errorf("node %s (%s) does not answer: %w", n.Name, n.State, err))
	}
	for _, f := range nodeFiles {
		if err := e.file(ctx, n.Name+"/"+f.name, func(ctx context.Context, w io.Writer) error {
			return e.engine.ExecTo(ctx, n.ID, w, f.command...)
		}); err != nil {
			return err
		}
	}
	for _, f := range nodeFolders {
		if err := e.folder(ctx, n, f); err != nil {
			return err
		}
	}
	return nil
}

func (e export) answers(ctx context.Context, n Node) error {
	limited, cancel := context.WithTimeoutCause(ctx, answerLimit, fmt.Errorf("not within %s", answerLimit))
	defer cancel()
	_, err := e.engine.Exec(limited, n.ID, nil, nil, "true")
	return err
}

// cluster asks the first control plane that answers.
func (e export) cluster(ctx context.Context, nodes []Node) error {
	reasons := []error{errors.New("no control plane answers")}
	for _, n := range nodes {
		if n.Role() != RoleControlPlane {
			continue
		}
		if err := e.answers(ctx, n); err != nil {
			reasons = append(reasons, fmt.Errorf("%s: %w", n.Name, err))
			continue
		}
		kubectl := func(ctx context.Context, w io.Writer, args ...string) error {
			return e.engine.ExecTo(ctx, n.ID, w, append([]string{"kubectl", "--kubeconfig", adminConfig, "--request-timeout", "30s", "get", "-A"}, args...)...)
		}
		if err := e.file(ctx, "cluster/nodes-pods.yaml", func(ctx context.Context, w io.Writer) error {
			var text bytes.Buffer
			if err := kubectl(ctx, &text, "nodes,pods", "-o", "yaml"); err != nil {
				return err
			}
			return copyBytes(w)(withoutValues(text.Bytes()))
		}); err != nil {
			return err
		}
		return e.file(ctx, "cluster/events.txt", func(ctx context.Context, w io.Writer) error {
			return kubectl(ctx, w, "events", "--sort-by", ".metadata.creationTimestamp", "-o", "wide")
		})
	}
	return e.failed(ctx, "cluster/api", errors.Join(reasons...))
}

// leftOut stands where an environment variable's value was.
const leftOut = "(left out by nodeimg)"

// withoutValues takes the values of environment variables out of a Kubernetes object or a list of them, and the annotation that repeats
// them. Of several documents the first comes back, which is all that a kubelet reads of a static pod's file. The error repeats nothing of
// the text.
func withoutValues(text []byte) ([]byte, error) {
	var objects map[string]any
	if err := yaml.Unmarshal(text, &objects); err != nil {
		return nil, errors.New("left out: it is no Kubernetes object in YAML, and may have values of environment variables anywhere")
	}
	var clean func(any)
	clean = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, item := range v {
				clean(item)
			}
		case map[string]any:
			delete(v, "kubectl.kubernetes.io/last-applied-configuration")
			variables, _ := v["env"].([]any)
			for _, variable := range variables {
				if variable, ok := variable.(map[string]any); ok && variable["value"] != nil {
					variable["value"] = leftOut
				}
			}
			for _, field := range v {
				clean(field)
			}
		}
	}
	clean(objects)
	return yaml.Marshal(objects)
}

// copyBytes writes the bytes of a call that may have failed.
func copyBytes(w io.Writer) func([]byte, error) error {
	return func(b []byte, err error) error {
		if err == nil {
			_, err = w.Write(append(bytes.TrimRight(b, "\n"), '\n'))
		}
		return err
	}
}

// diskFile remembers that the disk failed, which is another matter than a node that does not answer.
type diskFile struct {
	file *os.File
	err  error
}

// Write implements io.Writer.
func (f *diskFile) Write(p []byte) (int, error) {
	n, err := f.file.Write(p)
	f.err = errors.Join(f.err, err)
	return n, err
}

// file writes one file. When write fails, what came is kept, and a file beside it says why.
func (e export) file(ctx context.Context, name string, write func(context.Context, io.Writer) error) error {
	path := filepath.Join(e.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	limited, cancel := context.WithTimeoutCause(ctx, exportLimit, fmt.Errorf("not within %s", exportLimit))
	defer cancel()
	out := &diskFile{file: file}
	failure := write(limited, out)
	if err := errors.Join(out.err, file.Close()); err != nil {
		return err
	}
	if failure == nil {
		return nil
	}
	return e.failed(ctx, name, failure)
}

// failed says why something is not there. When the export itself has to end, that is the error.
func (e export) failed(ctx context.Context, name string, failure error) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	path := filepath.Join(e.dir, filepath.FromSlash(name)+".failed.txt")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(failure.Error()+"\n"), 0o644)
}

// folder copies the regular files of a folder of the node; links are followed in the node.
func (e export) folder(ctx context.Context, n Node, f nodeFolder) error {
	limited, cancel := context.WithTimeoutCause(ctx, exportLimit, fmt.Errorf("not within %s", exportLimit))
	defer cancel()
	r, w := io.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := e.engine.ExecTo(limited, n.ID, w, "tar", "-C", f.parent, "--dereference", "--ignore-failed-read", "-cf", "-", f.name)
		// 1 means that a file changed while it was read, which logs do (GNU tar's manual, "Synopsis of tar").
		if exit := new(dockerengine.ExitError); errors.As(err, &exit) && exit.Status == 1 {
			err = nil
		}
		w.CloseWithError(err)
	}()
	diskErr, err := extract(filepath.Join(e.dir, n.Name), r, f.clean)
	_ = r.Close()
	<-ended
	if diskErr != nil || err == nil {
		return diskErr
	}
	return e.failed(ctx, n.Name+"/"+f.name, err)
}

// cleanLimit is how much of a file is cleaned, in bytes: as much as a kubelet reads of a static pod's (k8s.io/kubernetes
// pkg/kubelet/config, maxConfigLength).
const cleanLimit = 10 << 20

// extract writes the regular files of a tar below dir and nowhere else, whatever the tar says. With clean, which may be nil, it writes what
// that makes of each; for a file that it refuses, another one beside it says why. It hears the sender to its end, also for the error with
// which that ends.
func extract(dir string, r io.Reader, clean func([]byte) ([]byte, error)) (diskErr, readErr error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err, nil
	}
	defer root.Close()
	in := tar.NewReader(r)
	for {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, r)
			return nil, err
		}
		if err != nil {
			return nil, err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		name, content := filepath.FromSlash(header.Name), io.Reader(in)
		if clean != nil {
			text, err := io.ReadAll(io.LimitReader(in, cleanLimit))
			if err != nil {
				return nil, err
			}
			if text, err = clean(text); err != nil {
				name, text = name+".failed.txt", []byte(err.Error()+"\n")
			}
			content = bytes.NewReader(text)
		}
		if diskErr, readErr := extractFile(root, name, content); diskErr != nil || readErr != nil {
			return diskErr, readErr
		}
	}
}

func extractFile(root *os.Root, name string, r io.Reader) (diskErr, readErr error) {
	if !filepath.IsLocal(name) {
		return nil, fmt.Errorf("the node names a file %q, which lies outside its folder", name)
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, err
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	out := &diskFile{file: file}
	if _, err := io.Copy(out, r); err != nil && out.err == nil {
		return nil, err
	}
	return errors.Join(out.err, file.Close()), nil
}
