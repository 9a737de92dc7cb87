package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/fetch"
)

func newClient(t *testing.T, mirrors map[string]string) *fetch.Client {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &fetch.Client{Cache: c, Mirrors: mirrors, RetryWait: time.Millisecond}
}

func content(size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// upstream is a file server with the faults of real ones.
type upstream struct {
	body []byte
	// cut ends every answer after that many bytes; 0 sends everything.
	cut int
	// noRange ignores Range, wrongRange answers it with another range.
	noRange, wrongRange bool
	// failures are the status codes of the first answers.
	failures   []int
	retryAfter string

	requests atomic.Int32
	mu       sync.Mutex
	ranges   []string
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := int(u.requests.Add(1))
	u.mu.Lock()
	u.ranges = append(u.ranges, r.Header.Get("Range"))
	u.mu.Unlock()
	if n <= len(u.failures) {
		if u.retryAfter != "" {
			w.Header().Set("Retry-After", u.retryAfter)
		}
		w.WriteHeader(u.failures[n-1])
		return
	}
	if u.noRange || u.wrongRange {
		if u.wrongRange && r.Header.Get("Range") != "" {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 1-%d/%d", len(u.body)-1, len(u.body)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(u.body[1:])
			return
		}
		r.Header.Del("Range")
	}
	if u.cut > 0 {
		w = &cutter{ResponseWriter: w, left: u.cut}
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(u.body))
}

type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	if len(p) <= c.left {
		c.left -= len(p)
		return c.ResponseWriter.Write(p)
	}
	_, _ = c.ResponseWriter.Write(p[:c.left])
	_ = http.NewResponseController(c.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}

func TestBlob(t *testing.T) {
	body := content(3 << 20)
	good := digest.FromBytes(body)
	for _, test := range []struct {
		name     string
		upstream *upstream
		size     int64
		digest   digest.Digest
		// inherited lies in the partial file beforehand.
		inherited []byte
		// want is part of the error, status its code.
		want   []string
		status int
		// requests is how many the server may see; 0 means any number.
		requests int
		// keeps says that what arrived stays for the next try.
		keeps bool
	}{
		{name: "plain", upstream: &upstream{}, size: int64(len(body)), requests: 1},
		{name: "size unknown", upstream: &upstream{}, requests: 1},
		{name: "cut and resumed", upstream: &upstream{cut: 1 << 20}, size: int64(len(body))},
		{name: "cut with unknown size", upstream: &upstream{cut: 1 << 20}},
		{name: "cut without ranges", upstream: &upstream{cut: 1 << 20, noRange: true}, size: int64(len(body)), want: []string{"broke off", "run again"}, keeps: true},
		{name: "cut every few bytes", upstream: &upstream{cut: 1000}, size: int64(len(body)), want: []string{"gave up after 5 tries"}, requests: 5, keeps: true},
		{name: "inherited", upstream: &upstream{}, inherited: body[:1<<20], size: int64(len(body)), requests: 1},
		{name: "inherited without ranges", upstream: &upstream{noRange: true}, inherited: body[:1<<20], size: int64(len(body)), requests: 1},
		{name: "inherited and another range", upstream: &upstream{wrongRange: true}, inherited: body[:1<<20], size: int64(len(body)), requests: 2},
		{name: "inherited whole", upstream: &upstream{}, inherited: body, size: int64(len(body))},
		{name: "inherited whole with unknown size", upstream: &upstream{}, inherited: body, requests: 2},
		{name: "inherited too long", upstream: &upstream{}, inherited: append(body[:len(body):len(body)], 1), size: int64(len(body)), requests: 1},
		{name: "inherited garbage", upstream: &upstream{}, inherited: []byte("garbage"), size: int64(len(body)), requests: 2},
		{name: "too many requests", upstream: &upstream{failures: []int{429, 429}, retryAfter: "0"}, requests: 3},
		{name: "server errors pass", upstream: &upstream{failures: []int{500, 502, 503}}, requests: 4},
		{name: "server errors stay", upstream: &upstream{failures: []int{500, 500, 500, 500, 500, 500}}, status: 500, want: []string{"run again later"}, requests: 5},
		{name: "too many requests for an hour", upstream: &upstream{failures: []int{429}, retryAfter: "3600"}, status: 429, want: []string{"1h0m0s"}, requests: 1},
		{name: "unauthorized", upstream: &upstream{failures: []int{401}}, status: 401, want: []string{"refuses access"}, requests: 1},
		{name: "forbidden", upstream: &upstream{failures: []int{403}}, status: 403, want: []string{"refuses access"}, requests: 1},
		{name: "not found", upstream: &upstream{failures: []int{404}}, status: 404, want: []string{"does not have it"}, requests: 1},
		{name: "wrong digest", upstream: &upstream{}, digest: digest.FromString("other"), size: int64(len(body)), want: []string{"digest mismatch", digest.FromString("other").String(), good.String()}, requests: 1},
		{name: "longer than said", upstream: &upstream{}, size: 100, want: []string{"more than the 100 bytes"}, requests: 1},
		{name: "shorter than said", upstream: &upstream{}, size: int64(len(body)) + 1, want: []string{"broke off", "gave up"}},
		{name: "no digest", upstream: &upstream{}, digest: "sha256:12", want: []string{"not a sha256"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.upstream.body = body
			server := httptest.NewServer(test.upstream)
			defer server.Close()
			client := newClient(t, nil)
			d := good
			if test.digest != "" {
				d = test.digest
			}
			if test.inherited != nil {
				if err := os.WriteFile(client.Cache.PartialPath(d), test.inherited, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			rawURL := strings.Replace(server.URL, "://", "://user:secret@", 1) + "/a/file?token=secret"
			err := client.Blob(t.Context(), rawURL, d, test.size)
			if len(test.want) == 0 && test.status == 0 {
				if err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(client.Cache.Path(d))
				if err != nil || !bytes.Equal(got, body) {
					t.Fatalf("cache holds %d wrong bytes (%v)", len(got), err)
				}
			} else {
				if err == nil {
					t.Fatal("no error")
				}
				for _, want := range append(test.want, "fetching ") {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("error %q does not say %q", err, want)
					}
				}
				if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "user") {
					t.Errorf("error %q holds a credential", err)
				}
				var status *fetch.StatusError
				if test.status != 0 && (!errors.As(err, &status) || status.Code != test.status || status.URL != server.URL+"/a/file") {
					t.Errorf("error %q is no %d of the URL", err, test.status)
				}
				if client.Cache.Has(d) {
					t.Error("the cache has it all the same")
				}
			}
			if n := int(test.upstream.requests.Load()); test.requests != 0 && n != test.requests {
				t.Errorf("%d requests, want %d: %q", n, test.requests, test.upstream.ranges)
			}
			left, err := os.Stat(client.Cache.PartialPath(d))
			if kept := err == nil && left.Size() > 0; kept != test.keeps && test.status < 500 && test.name != "shorter than said" {
				t.Errorf("partial file kept: %v, want %v", kept, test.keeps)
			}
		})
	}
}

func TestBlobResumesAfterGivingUp(t *testing.T) {
	body := content(4000)
	u := &upstream{body: body, cut: 700}
	server := httptest.NewServer(u)
	defer server.Close()
	client := newClient(t, nil)
	d := digest.FromBytes(body)
	if err := client.Blob(t.Context(), server.URL, d, int64(len(body))); err == nil {
		t.Fatal("five answers of 700 bytes cannot make 4000")
	}
	if err := client.Blob(t.Context(), server.URL, d, int64(len(body))); err != nil {
		t.Fatal(err)
	}
	if last := u.ranges[len(u.ranges)-1]; last != "bytes=3500-" {
		t.Errorf("last range %q", last)
	}
}

func TestBlobIsFetchedOnce(t *testing.T) {
	u := &upstream{body: content(1 << 20)}
	server := httptest.NewServer(u)
	defer server.Close()
	client := newClient(t, nil)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if err := client.Blob(t.Context(), server.URL, digest.FromBytes(u.body), 1<<20); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := u.requests.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestBlobEndsWithItsContext(t *testing.T) {
	started := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte("some"))
		_ = http.NewResponseController(w).Flush()
		close(started)
		<-r.Context().Done()
	}))
	defer server.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { <-started; cancel(errors.New("the user had enough")) }()
	err := newClient(t, nil).Blob(ctx, server.URL, digest.FromString("x"), 1000)
	if err == nil || !strings.Contains(err.Error(), "the user had enough") {
		t.Fatalf("got %v", err)
	}
}

func TestBlobWithoutServer(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	err := newClient(t, nil).Blob(t.Context(), strings.Replace(server.URL, "://", "://user:secret@", 1)+"/x", digest.FromString("x"), 0)
	if err == nil || !strings.Contains(err.Error(), server.URL+"/x") || !strings.Contains(err.Error(), "refused") || strings.Contains(err.Error(), "secret") {
		t.Fatalf("got %v", err)
	}
}

func TestBlobOfAServerThatHangsUp(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		connection, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = connection.Close()
	}))
	defer server.Close()
	err := newClient(t, nil).Blob(t.Context(), server.URL+"/x", digest.FromString("x"), 0)
	if err == nil || !strings.Contains(err.Error(), server.URL+"/x") || !strings.Contains(err.Error(), "closed the connection") || !strings.Contains(err.Error(), "mirror") {
		t.Fatalf("got %v, want what happened and what to do", err)
	}
}

func TestBlobSaysWhenItCannotStore(t *testing.T) {
	u := &upstream{body: content(10)}
	server := httptest.NewServer(u)
	defer server.Close()
	client := newClient(t, nil)
	d := digest.FromBytes(u.body)
	if err := os.Mkdir(client.Cache.PartialPath(d), 0o755); err != nil {
		t.Fatal(err)
	}
	var path *fs.PathError
	if err := client.Blob(t.Context(), server.URL, d, 10); !errors.As(err, &path) {
		t.Fatalf("got %v", err)
	}
}

func TestText(t *testing.T) {
	for _, test := range []struct {
		name     string
		upstream *upstream
		want     string
		err      string
	}{
		{"plain", &upstream{body: []byte("hello")}, "hello", ""},
		{"too long", &upstream{body: []byte("hello, world")}, "", "longer than the 10 bytes"},
		{"not found", &upstream{failures: []int{404}}, "", "404"},
		{"fails first", &upstream{body: []byte("hello"), failures: []int{503}}, "hello", ""},
		{"is always cut", &upstream{body: []byte("hello"), cut: 2}, "", "unexpected EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(test.upstream)
			defer server.Close()
			got, err := newClient(t, nil).Text(t.Context(), server.URL, 10)
			if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %q and %v", got, err)
			}
		})
	}
}

func TestRedirectDoesNotLeaveTLS(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "evil") }))
	defer plain.Close()
	secure := httptest.NewTLSServer(http.RedirectHandler(plain.URL+"/?token=secret", http.StatusFound))
	defer secure.Close()
	client := newClient(t, nil)
	client.Roots = secure.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	_, err := client.Text(t.Context(), secure.URL, 10)
	if err == nil || !strings.Contains(err.Error(), "redirected from https") || strings.Contains(err.Error(), "secret") {
		t.Fatalf("got %v", err)
	}
}

func TestMirrors(t *testing.T) {
	mirrors := map[string]string{
		"dl.k8s.io":      "http://127.0.0.1:8080/dl/",
		"github.com":     "https://user:secret@mirror.example/gh",
		"port.test:8443": "http://127.0.0.1:1",
		"broken.test":    "ftp://user:secret@x",
	}
	client := newClient(t, mirrors)
	for in, want := range map[string]string{
		"https://dl.k8s.io/v1/x":              "http://127.0.0.1:8080/dl/v1/x",
		"https://github.com/a%20b?c=d":        "https://user:secret@mirror.example/gh/a%20b?c=d",
		"https://mirror.example/gh/x":         "https://user:secret@mirror.example/gh/x",
		"http://mirror.example/gh/x":          "http://mirror.example/gh/x",
		"https://port.test:8443/x":            "http://127.0.0.1:1/x",
		"https://port.test/x":                 "https://port.test/x",
		"https://dl.k8s.io.evil.test/v1/x":    "https://dl.k8s.io.evil.test/v1/x",
		"https://broken.test/x":               "",
		"file:///etc/passwd":                  "",
		"https://user:secret@host\x7f.test/x": "",
	} {
		got, err := client.Rewrite(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q becomes %q (%v), want %q", in, got, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("error %q holds a credential", err)
		}
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		fmt.Fprint(w, r.URL.Path, " ", strconv.Quote(user+":"+password))
	}))
	defer server.Close()
	client.Mirrors = map[string]string{"dl.k8s.io": strings.Replace(server.URL, "://", "://u:p@", 1) + "/sub"}
	if got, err := client.Text(t.Context(), "https://dl.k8s.io/v1/kubelet", 100); err != nil || got != `/sub/v1/kubelet "u:p"` {
		t.Errorf("got %q, %v", got, err)
	}
}
