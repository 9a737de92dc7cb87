package builder_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/moby/buildkit/util/staticfs"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"

	"github.com/nodeimg/nodeimg/builder"
	"github.com/nodeimg/nodeimg/builder/child"
	"github.com/nodeimg/nodeimg/builder/display"
	"github.com/nodeimg/nodeimg/builder/internal/buildtest"
	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/progress"
)

func TestMain(m *testing.M) {
	child.Init()
	os.Exit(m.Run())
}

// start returns a builder that ends with the test, and a cache with the base image.
func start(t *testing.T) (builder.Builder, *cache.Cache, map[string]builder.Layout) {
	t.Helper()
	c := buildtest.Cache(t)
	b, err := child.New(child.Options{Cache: c, Buildkitd: buildtest.Buildkitd(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("closing the builder: %v", err)
		}
		if left := buildtest.Leftovers(t, c.Root()); len(left) > 0 {
			t.Errorf("the builder left:\n%s", strings.Join(left, "\n"))
		}
	})
	return b, c, map[string]builder.Layout{"base": {Store: builder.Blobs(c), Digest: buildtest.Base(t, c)}}
}

// files returns the content of the regular files of the image in dir, by path, and the latest time in any header.
func files(t *testing.T, dir string, d digest.Digest) (map[string]string, time.Time) {
	t.Helper()
	img := buildtest.Image(t, dir, d)
	if err := validate.Image(img, validate.Fast); err != nil {
		t.Fatalf("validating the result: %v", err)
	}
	r := mutate.Extract(img)
	defer r.Close()
	found, latest := map[string]string{}, time.Time{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return found, latest
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.After(latest) {
			latest = h.ModTime
		}
		if h.Typeflag == tar.TypeReg && h.Size < 1<<20 {
			b, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			found[h.Name] = string(b)
		}
	}
}

func TestSolveReachesTheSocketAndNothingElse(t *testing.T) {
	b, _, layouts := start(t)
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "answer to "+r.URL.Path)
	}))
	server.Listener = listener
	server.Start()
	defer server.Close()

	extra := staticfs.NewFS()
	extra.Add("note", &fstypes.Stat{}, []byte("from a folder"))
	epoch := time.Unix(1_700_000_000, 0)
	request := builder.Request{
		Name: "socket",
		Dockerfile: []byte(`FROM base AS work
ARG greeting
RUN --network=none --mount=type=ssh,id=broker,target=/broker.sock,mode=0666 tool get /broker.sock /v2/$greeting /answer
RUN --network=none tool interfaces /interfaces
FROM scratch
LABEL a=b
COPY --from=work /answer /interfaces /
COPY --from=extra note /
`),
		Platform:  "linux/amd64",
		Contexts:  map[string]fsutil.FS{"extra": extra},
		Layouts:   layouts,
		Sockets:   map[string]string{"broker": socket},
		BuildArgs: map[string]string{"greeting": "hello"},
		Epoch:     epoch,
		NoCache:   true,
	}
	// The tool is its own shell and knows no variables.
	request.Dockerfile = bytes.ReplaceAll(request.Dockerfile, []byte("$greeting"), []byte("hello"))

	var digests []digest.Digest
	for range 2 {
		request.Output = t.TempDir()
		result, err := builder.Solve(t.Context(), b, request)
		if err != nil {
			t.Fatal(err)
		}
		got, latest := files(t, request.Output, result.Digest)
		want := map[string]string{"answer": "answer to /v2/hello", "interfaces": "lo", "note": "from a folder"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("files (-want +got):\n%s", diff)
		}
		if latest.After(epoch) {
			t.Errorf("a file has the time %s, later than the epoch %s", latest, epoch)
		}
		digests = append(digests, result.Digest)
	}
	if digests[0] != digests[1] {
		t.Errorf("two builds without cache have the digests %s and %s", digests[0], digests[1])
	}

	if _, err := builder.Solve(t.Context(), b, request); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("building into a folder that is not empty: got %v", err)
	}
}

func TestSolveSeesEveryChange(t *testing.T) {
	b, _, _ := start(t)
	for _, test := range []struct{ fingerprint, content string }{
		{"", "one"}, {"", "two"}, {"a", "three"}, {"b", "seven"}, {"b", "seven"},
	} {
		extra := staticfs.NewFS()
		extra.Add("note", &fstypes.Stat{ModTime: 1}, []byte(test.content))
		request := builder.Request{
			Name: "changes", Fingerprint: test.fingerprint, Dockerfile: []byte("FROM scratch\nCOPY --from=extra note /\n"),
			Contexts: map[string]fsutil.FS{"extra": extra}, Output: t.TempDir(),
		}
		result, err := builder.Solve(t.Context(), b, request)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := files(t, request.Output, result.Digest); got["note"] != test.content {
			t.Errorf("fingerprint %q: got %q, want %q", test.fingerprint, got["note"], test.content)
		}
		entries, err := os.ReadDir(request.Output)
		if err != nil || len(entries) != 3 {
			t.Errorf("the layout holds %v, %v; want blobs, index.json and oci-layout", entries, err)
		}
	}
}

func TestSolveErrors(t *testing.T) {
	b, c, layouts := start(t)
	missing := digest.FromString("nothing has this digest")
	for _, test := range []struct {
		name       string
		dockerfile string
		layouts    map[string]builder.Layout
		want       builder.StepError
		text       string
	}{
		{
			name: "a step fails",
			dockerfile: `FROM base
RUN --network=none tool interfaces /first
# a comment
RUN --network=none \
    --mount=type=tmpfs,target=/scratch \
    tool fail \
    30 7
`,
			want: builder.StepError{
				Name: "[stage-0 2/3] RUN --network=none     --mount=type=tmpfs,target=/scratch     tool fail     30 7", Command: "tool fail     30 7",
				ExitCode: 7, Ranges: []builder.Range{{StartLine: 4, EndLine: 7}},
			},
			text: "exit code 7",
		},
		{
			name:       "the Dockerfile is wrong",
			dockerfile: "FROM base\n\nRUNN tool\n",
			want:       builder.StepError{ExitCode: -1, Ranges: []builder.Range{{StartLine: 3, EndLine: 3}}},
			text:       "unknown instruction: RUNN",
		},
		{
			name:       "a file is missing",
			dockerfile: "FROM base AS one\nFROM scratch\nCOPY --from=one /nowhere /\n",
			want: builder.StepError{
				Name: "[stage-1 1/1] COPY --from=one /nowhere /", ExitCode: -1, Ranges: []builder.Range{{StartLine: 3, EndLine: 3}},
			},
			text: "/nowhere",
		},
		{
			name:       "the base image is not in the cache",
			dockerfile: "FROM base\n",
			layouts:    map[string]builder.Layout{"base": {Store: builder.Blobs(c), Digest: missing}},
			want:       builder.StepError{ExitCode: -1, Ranges: []builder.Range{{StartLine: 1, EndLine: 1}}},
			text:       "blob " + missing.String() + " is not in the cache",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.layouts == nil {
				test.layouts = layouts
			}
			_, err := builder.Solve(t.Context(), b, builder.Request{
				Name: "errors", Dockerfile: []byte(test.dockerfile), Layouts: test.layouts, Output: t.TempDir(),
			})
			var step *builder.StepError
			if !errors.As(err, &step) {
				t.Fatalf("got %v, which is no StepError", err)
			}
			if !strings.Contains(err.Error(), test.text) {
				t.Errorf("the message has no %q:\n%v", test.text, err)
			}
			if test.want.ExitCode == 7 {
				if n := len(step.Log); n != 20 || step.Log[n-1] != "line 30" || step.Log[0] != "line 11" {
					t.Errorf("the log has %d lines: %q", n, step.Log)
				}
			}
			got := *step
			got.Err, got.Log = nil, nil
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestSolveShowsItsSteps(t *testing.T) {
	b, _, layouts := start(t)
	var screen bytes.Buffer
	d, err := display.New("plain", &screen)
	if err != nil {
		t.Fatal(err)
	}
	_, err = builder.Solve(progress.WithSink(t.Context(), d.Sink()), b, builder.Request{
		Name: "shown", Dockerfile: []byte("FROM base\nRUN --network=none tool fail 3 2\n"), Layouts: layouts, Output: t.TempDir(),
	})
	if err == nil {
		t.Fatal("a failing step gave no error")
	}
	d.Close()
	for _, want := range []string{"[builder] start buildkitd", "[1/2] RUN --network=none tool fail 3 2", "line 3", "ERROR:"} {
		if !strings.Contains(screen.String(), want) {
			t.Errorf("the screen has no %q:\n%s", want, screen.String())
		}
	}
	timings := d.Timings()
	if !slices.ContainsFunc(timings, func(x display.Timing) bool { return x.Area == "builder" }) ||
		!slices.ContainsFunc(timings, func(x display.Timing) bool { return x.Area == display.AreaBuild && x.Failed }) {
		t.Errorf("the timings lack a step: %+v", timings)
	}
}

func TestSolveEntitlements(t *testing.T) {
	c := buildtest.Cache(t)
	layouts := map[string]builder.Layout{"base": {Store: builder.Blobs(c), Digest: buildtest.Base(t, c)}}
	for _, test := range []struct {
		name            string
		granted, wanted []string
		want            string
	}{
		{"granted", []string{"security.insecure"}, []string{"security.insecure"}, ""},
		{"not asked for", []string{"security.insecure"}, nil, "security.insecure is not allowed"},
		{"not granted", nil, []string{"security.insecure"}, "security.insecure is not allowed"},
		{"unknown", nil, []string{"security.none"}, `reading entitlement "security.none"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, err := child.New(child.Options{Cache: c, Buildkitd: buildtest.Buildkitd(t), Entitlements: test.granted})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			_, err = builder.Solve(t.Context(), b, builder.Request{
				Name: "entitlements", Dockerfile: []byte("FROM base\nRUN --network=none --security=insecure tool interfaces /i\n"),
				Layouts: layouts, Entitlements: test.wanted, Output: t.TempDir(), NoCache: true,
			})
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
