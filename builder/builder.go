package builder

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/moby/buildkit/util/staticfs"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"

	"github.com/nodeimg/nodeimg/internal/progress"
	"github.com/nodeimg/nodeimg/recipes"
)

// Builder reaches a BuildKit daemon.
type Builder interface {
	// Connect returns a client whose daemon has answered. The first call may start the daemon and may wait for another process to
	// finish with it; later calls return the same client. The Builder owns the client: callers do not close it.
	Connect(ctx context.Context) (*client.Client, error)
	// Explain adds to err, which a call to the daemon returned, what only the builder knows, for instance the end of the daemon's log.
	// It returns err itself when it knows nothing more.
	Explain(err error) error
	// Close ends everything that Connect started. It may be called at any time, and more than once.
	Close() error
	// String names the builder in messages.
	String() string
}

// Layout is an image that BuildKit may read from this side of the connection.
type Layout struct {
	// Store serves the blobs: see Blobs, or containerd's local store over the folder of an OCI layout.
	Store content.Store
	// Digest of the manifest or index.
	Digest digest.Digest
}

// Request describes one solve.
type Request struct {
	// Name of the image in messages.
	Name string
	// Fingerprint stands for the content of every folder in Contexts, for instance a digest of the lock and the recipe. From a folder
	// that it received under the same fingerprint, BuildKit asks only for files whose path, size, mode or time differs, so the
	// fingerprint must change when content does. Empty means that every file is transferred.
	Fingerprint string
	// Dockerfile is the text. It must not have a "# syntax" line, which would need a registry.
	Dockerfile []byte
	// Target is the stage to build; empty means the last one.
	Target string
	// Platform to build for, for instance linux/amd64; empty means the daemon's own.
	Platform string
	// Contexts are folders that the Dockerfile knows by name ("COPY --from=NAME", "FROM NAME"). Like an image's, names are lower case.
	Contexts map[string]fsutil.FS
	// Layouts are images that the Dockerfile knows by name ("FROM NAME").
	Layouts map[string]Layout
	// Sockets are the unix sockets on this side that a step reaches with "RUN --mount=type=ssh,id=ID", by ID. Bytes pass unchanged in
	// both directions. The sockets must exist when Solve is called.
	Sockets map[string]string
	// BuildArgs are the values of the Dockerfile's ARGs.
	BuildArgs map[string]string
	// Entitlements that steps need, for instance security.insecure. The daemon must allow them too.
	Entitlements []string
	// Epoch is the latest time that files and the image's configuration may carry (SOURCE_DATE_EPOCH); zero leaves times alone, and the
	// result's digest is then different every time.
	Epoch time.Time
	// NoCache runs every step again.
	NoCache bool
	// Output is an empty folder that receives the result as an OCI image layout with uncompressed layers.
	Output string
}

// Result is what a solve left in Request.Output.
type Result struct {
	// Digest of the manifest of the one platform that was built.
	Digest digest.Digest
	// Config is the digest of the image configuration.
	Config digest.Digest
}

// sessionStop is how long Solve waits for the status stream to end after the solve itself has been cancelled. BuildKit's client
// waits for a daemon that has gone silent; a person who pressed Ctrl-C does not.
const sessionStop = 2 * time.Second

// Solve builds req with b and writes the result to req.Output. Steps are shown by the sink in ctx. A step that fails is a *StepError.
func Solve(ctx context.Context, b Builder, req Request) (*Result, error) {
	opt, err := solveOpt(req)
	if err != nil {
		return nil, fmt.Errorf("preparing the build of %s: %w", req.Name, err)
	}
	c, err := b.Connect(ctx)
	if err != nil {
		return nil, err
	}

	rec := newRecorder()
	sink := progress.SinkFrom(ctx)
	status := make(chan *client.SolveStatus)
	var following sync.WaitGroup
	following.Go(func() {
		for s := range status {
			rec.add(s)
			sink(s)
		}
	})
	type outcome struct {
		response *client.SolveResponse
		err      error
	}
	solved := make(chan outcome, 1)
	go func() {
		response, err := c.Solve(ctx, nil, opt, status)
		following.Wait()
		solved <- outcome{response, err}
	}()

	var out outcome
	select {
	case out = <-solved:
	case <-ctx.Done():
		select {
		case out = <-solved:
		case <-time.After(sessionStop):
			out.err = context.Cause(ctx)
		}
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("building %s: %w", req.Name, context.Cause(ctx))
	}
	if out.err != nil {
		return nil, describe(req, b, rec, out.err)
	}
	d, err := digest.Parse(out.response.ExporterResponse[exptypes.ExporterImageDigestKey])
	if err != nil {
		return nil, fmt.Errorf("building %s: builder %s did not name a result: %w", req.Name, b, err)
	}
	config, err := digest.Parse(out.response.ExporterResponse[exptypes.ExporterImageConfigDigestKey])
	if err != nil {
		return nil, fmt.Errorf("building %s: builder %s did not name an image configuration: %w", req.Name, b, err)
	}
	// The store that received the blobs leaves its empty folder for unfinished ones, which is no part of a layout.
	if err := os.Remove(filepath.Join(req.Output, "ingest")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("building %s: %w", req.Name, err)
	}
	return &Result{Digest: d, Config: config}, nil
}

// solveOpt translates req to the terms of BuildKit's client and Dockerfile frontend.
// See https://github.com/moby/buildkit/blob/v0.33.1/frontend/dockerui/config.go for the attributes.
func solveOpt(req Request) (client.SolveOpt, error) {
	if err := checkOutput(req.Output); err != nil {
		return client.SolveOpt{}, err
	}
	attrs := map[string]string{
		// No "attest:" attribute: provenance would make the result an index whose digest differs from build to build.
		"filename": "Dockerfile",
	}
	if req.Target != "" {
		attrs["target"] = req.Target
	}
	if req.Platform != "" {
		attrs["platform"] = req.Platform
	}
	if req.NoCache {
		attrs["no-cache"] = ""
	}
	for name, value := range req.BuildArgs {
		attrs["build-arg:"+name] = value
	}
	if !req.Epoch.IsZero() {
		attrs["build-arg:SOURCE_DATE_EPOCH"] = strconv.FormatInt(req.Epoch.Unix(), 10)
	}

	dockerfile := staticfs.NewFS()
	dockerfile.Add("Dockerfile", &fstypes.Stat{Mode: 0o644}, req.Dockerfile)
	mounts := map[string]fsutil.FS{"dockerfile": dockerfile, "context": staticfs.NewFS()}
	for name, files := range req.Contexts {
		mounts["named-"+name] = files
		attrs["context:"+name] = "local:named-" + name
	}
	stores := map[string]content.Store{}
	for name, layout := range req.Layouts {
		if _, both := req.Contexts[name]; both {
			return client.SolveOpt{}, fmt.Errorf("the context %q is both a folder and an image", name)
		}
		// The layout's name is parsed as an image reference, whose path must be lower case; an index is always valid.
		store := "layout" + strconv.Itoa(len(stores))
		stores[store] = layout.Store
		attrs["context:"+name] = "oci-layout://" + store + "@" + layout.Digest.String()
	}

	var attachables []session.Attachable
	if len(req.Sockets) > 0 {
		var agents []sshprovider.AgentConfig
		for _, id := range slices.Sorted(maps.Keys(req.Sockets)) {
			agents = append(agents, sshprovider.AgentConfig{ID: id, Paths: []string{req.Sockets[id]}, Raw: true})
		}
		provider, err := sshprovider.NewSSHAgentProvider(agents)
		if err != nil {
			return client.SolveOpt{}, fmt.Errorf("forwarding sockets: %w", err)
		}
		attachables = append(attachables, provider)
	}

	for _, e := range req.Entitlements {
		if _, _, err := entitlements.Parse(e); err != nil {
			return client.SolveOpt{}, recipes.InputErrorf("reading entitlement %q: %v", e, err)
		}
	}
	return client.SolveOpt{
		Frontend:            "dockerfile.v0",
		FrontendAttrs:       attrs,
		LocalMounts:         mounts,
		OCIStores:           stores,
		SharedKey:           "nodeimg:" + cmp.Or(req.Fingerprint, rand.Text()),
		Session:             attachables,
		AllowedEntitlements: req.Entitlements,
		Exports: []client.ExportEntry{{
			Type:      client.ExporterOCI,
			OutputDir: req.Output,
			Attrs: map[string]string{
				"tar":               "false",
				"oci-mediatypes":    "true",
				"rewrite-timestamp": strconv.FormatBool(!req.Epoch.IsZero()),
				"compression":       "uncompressed",
				"force-compression": "true",
			},
		}},
	}, nil
}

// checkOutput refuses a folder that is not empty: BuildKit would add to it, and blobs of another build would look like this one's.
func checkOutput(dir string) error {
	if dir == "" {
		return errors.New("no output folder given")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("reading the output folder: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("the output folder %s is not empty: it holds %s", dir, entries[0].Name())
	}
	return nil
}

// describe makes the error of a failed solve readable.
func describe(req Request, b Builder, rec *recorder, err error) error {
	explained := b.Explain(err)
	if step := stepError(rec, err); step != nil {
		if explained != err {
			step.Err = explained
		}
		return fmt.Errorf("building %s: %w", cmp.Or(req.Name, "image"), fullDisk(step))
	}
	return fmt.Errorf("building %s with %s: %w", cmp.Or(req.Name, "image"), b, fullDisk(explained))
}

// fullDisk adds the remedy to an error that a full disk has caused. BuildKit passes it on as text only.
func fullDisk(err error) error {
	if !strings.Contains(err.Error(), "no space left on device") {
		return err
	}
	return fmt.Errorf("a disk is full: free space where the builder keeps its state (for nodeimg's own builder the cache directory, see NODEIMG_CACHE) and where the output goes: %w", err)
}
