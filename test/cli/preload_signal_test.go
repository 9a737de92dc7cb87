package cli

import (
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nodeimg/nodeimg/recipes"
)

// TestPreloadKilled ends nodeimg while it copies the node image's layers into a folder: the folder is not there, and the next run makes it
// and clears what is left.
func TestPreloadKilled(t *testing.T) {
	w, r := newWorkplace(t), startRegistry(t, "", "")
	w.pushNode(r, recipes.EngineDirect)
	r.push(t, "library/app:1", newImage(t, 240))
	manifest, err := r.pull(t, "nodes/small:v1").Manifest()
	if err != nil {
		t.Fatal(err)
	}
	layer := manifest.Layers[0].Digest.String()
	args := []string{"preload", "--progress", "plain", r.host + "/nodes/small:v1", "-i", r.host + "/library/app:1", "-o", "type=oci,dest=out"}
	stranger := w.elsewhere()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		reached := make(chan struct{}, 1)
		r.set(func(_ http.ResponseWriter, request *http.Request, _ http.Handler) bool {
			if request.Method != http.MethodGet || !strings.HasSuffix(request.URL.Path, layer) {
				return false
			}
			select {
			case reached <- struct{}{}:
			default:
			}
			<-request.Context().Done()
			return true
		})
		cmd := stranger.command(t.Context(), args...)
		ended := make(chan *outcome, 1)
		go func() { ended <- stranger.finish(cmd) }()
		select {
		case <-reached:
		case early := <-ended:
			t.Fatalf("nodeimg ended before it copied a layer:\n%s", early.stderr)
		}
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if o := <-ended; o.status == 0 || o.stdout != "" {
			t.Errorf("%s: nodeimg exited with %d and printed %q", signal, o.status, o.stdout)
		}
		left := slices.DeleteFunc(w.entries("."), func(name string) bool { return !strings.HasPrefix(name, "out") })
		if slices.Contains(left, "out") || signal == syscall.SIGTERM && len(left) > 0 {
			t.Errorf("%s left %q", signal, left)
		}
	}
	r.set(nil)
	stranger.run(args...).succeeded()
	if left := slices.DeleteFunc(w.entries("."), func(name string) bool { return !strings.HasPrefix(name, "out") }); !slices.Equal(left, []string{"out"}) {
		t.Errorf("after the next run there is %q", left)
	}
	checkStore(t, w.layoutImage("out"))
}
