package dockerengine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// What a running Engine does with Load, Save and Inspect is tested end to end, where one is started.

func TestOpenNamesTheAddress(t *testing.T) {
	socket := "unix://" + filepath.Join(t.TempDir(), "no.sock")
	t.Setenv("DOCKER_HOST", socket)
	_, err := Open(t.Context())
	if err == nil || !strings.Contains(err.Error(), socket) || !strings.Contains(err.Error(), "DOCKER_HOST") {
		t.Fatalf("want an error that names %s and DOCKER_HOST, got %v", socket, err)
	}
}

func TestOpenHonoursTheContext(t *testing.T) {
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(t.TempDir(), "no.sock"))
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped by the user")
	cancel(stopped)
	if _, err := Open(ctx); !errors.Is(err, stopped) {
		t.Fatalf("want the reason why the context ended, got %v", err)
	}
}

func TestEndpointFromEnvironment(t *testing.T) {
	writeContext := func(t *testing.T, dir, name, host string) {
		t.Helper()
		meta := filepath.Join(dir, "contexts", "meta", digest.FromString(name).Encoded())
		if err := os.MkdirAll(meta, 0o755); err != nil {
			t.Fatal(err)
		}
		content := `{"Name":"` + name + `","Metadata":{},"Endpoints":{"docker":{"Host":"` + host + `","SkipTLSVerify":false}}}`
		if err := os.WriteFile(filepath.Join(meta, "meta.json"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name, host, contextName string
		want                    endpoint
		failure                 string
	}{
		{name: "DOCKER_HOST first", host: "tcp://10.1.2.3:2375", contextName: "remote", want: endpoint{host: "tcp://10.1.2.3:2375"}},
		{name: "context", contextName: "remote", want: endpoint{host: "unix:///run/remote.sock", context: "remote"}},
		{name: "default context", contextName: "default"},
		{name: "missing context", contextName: "gone", failure: `docker context "gone" does not exist`},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			writeContext(t, dir, "remote", "unix:///run/remote.sock")
			got, err := func() (endpoint, error) {
				t.Setenv("DOCKER_HOST", test.host)
				t.Setenv("DOCKER_TLS_VERIFY", "")
				if test.host == "" && test.contextName != "default" {
					return readContext(filepath.Join(dir, "contexts"), test.contextName)
				}
				t.Setenv("DOCKER_CONTEXT", test.contextName)
				return endpointFromEnvironment()
			}()
			if test.failure != "" {
				if err == nil || !strings.Contains(err.Error(), test.failure) {
					t.Fatalf("want %q, got %v", test.failure, err)
				}
				return
			}
			if err != nil || got != test.want {
				t.Fatalf("got %+v, %v; want %+v", got, err, test.want)
			}
		})
	}
}

// The streams are what Docker Engine 28.5.2 answers to POST /images/load.
func TestReadMessages(t *testing.T) {
	for _, test := range []struct {
		name, stream, failure string
		lines                 []string
	}{
		{
			name: "loaded",
			stream: `{"status":"Loading layer","progressDetail":{"current":32768,"total":1024},"progress":"[==>] 32.77kB","id":"2b6b4a4a5b0e"}` + "\n" +
				`{"stream":"Loaded image: app:dev\n"}` + "\n",
			lines: []string{"Loaded image: app:dev"},
		},
		{
			name:    "error in the stream",
			stream:  `{"errorDetail":{"message":"archive/tar: invalid tar header"},"error":"archive/tar: invalid tar header"}` + "\n",
			failure: "invalid tar header",
		},
		{name: "cut short", stream: `{"status":"Loading la`, failure: "unexpected EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var lines []string
			err := readMessages(strings.NewReader(test.stream), func(line string) { lines = append(lines, line) })
			if test.failure == "" && err != nil || test.failure != "" && (err == nil || !strings.Contains(err.Error(), test.failure)) {
				t.Fatalf("want %q, got %v", test.failure, err)
			}
			if strings.Join(lines, "|") != strings.Join(test.lines, "|") {
				t.Fatalf("lines %q, want %q", lines, test.lines)
			}
		})
	}
}
