package doctor

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nodeimg/nodeimg/internal/cache"
	"github.com/nodeimg/nodeimg/internal/dockerengine"
)

// State is the verdict of a check.
type State string

// The states, from the best to the worst that is known.
const (
	// OK means that nothing has to be done.
	OK State = "ok"
	// Warning means that something works worse, or that only some recipes or clusters work.
	Warning State = "warning"
	// Failed means that building, or making clusters, cannot work.
	Failed State = "failed"
	// Unknown means that the check could not find out.
	Unknown State = "unknown"
)

// Check is one thing that was looked at.
type Check struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Found is what is the case.
	Found string `json:"found"`
	// Remedy is what helps; empty when the state is ok.
	Remedy string `json:"remedy,omitempty"`
}

// DefaultLimit is how long a check may take. Every one of them takes milliseconds where all is well.
const DefaultLimit = 10 * time.Second

// host is what several checks look at.
type host struct {
	limit time.Duration
	// engine is nil when engineErr says why it does not answer.
	engine    *dockerengine.Info
	engineErr error
	// address is where the Engine listens.
	address string
	// cache is the folder of nodeimg's cache, which need not exist.
	cache    string
	cacheErr error
}

// probe is a check before it was made.
type probe struct {
	name string
	run  func(ctx context.Context, h *host) verdict
}

// verdict is a Check without its name.
type verdict struct {
	state         State
	found, remedy string
}

// probes are all checks in the order of the table.
var probes = []probe{
	{"kernel", checkKernel},
	{"control groups", checkControlGroups},
	{"CAP_SYS_RESOURCE", checkSysResource},
	{"user namespaces", checkUserNamespaces},
	{"overlayfs", checkOverlay},
	{"ID-mapped overlayfs", checkIDMappedOverlay},
	{"inotify limits", checkInotify},
	{"key limits", checkKeys},
	{"connection tracking", checkConntrack},
	{"Docker Engine", checkEngine},
	{"image store", checkImageStore},
	{"Sysbox", checkSysbox},
	{"disk of the Docker Engine", checkEngineDisk},
	{"BuildKit", checkBuildKit},
	{"runc", checkRunc},
	{"apt", checkApt},
	{"mmdebstrap", checkMmdebstrap},
	{"Go", checkGo},
	{"C compiler", checkCompiler},
	{"disk of the cache", checkCacheDisk},
}

// Run makes all checks, each within the limit (zero means DefaultLimit), and returns them in a fixed order. The Engine, the builder and the
// cache are those that the environment names. Nothing on the host is changed. The error is that ctx has ended.
func Run(ctx context.Context, limit time.Duration) ([]Check, error) {
	if limit <= 0 {
		limit = DefaultLimit
	}
	h := &host{limit: limit}
	h.cache, h.cacheErr = cache.Location("")
	h.reachEngine(ctx)

	checks := make([]Check, len(probes))
	var group sync.WaitGroup
	for i, p := range probes {
		group.Go(func() {
			v := within(ctx, limit, func(ctx context.Context) verdict { return p.run(ctx, h) }, func(err error) verdict {
				return verdict{Unknown, err.Error(), "try again; if it happens again, the kernel's log (dmesg) may say what hangs"}
			})
			checks[i] = Check{Name: p.name, State: v.state, Found: v.found, Remedy: v.remedy}
		})
	}
	group.Wait()
	return checks, context.Cause(ctx)
}

// within returns what run returns, or, when the limit has passed or ctx has ended first, what late makes of that. A system call that never
// returns is left behind with its goroutine.
func within[T any](ctx context.Context, limit time.Duration, run func(context.Context) T, late func(error) T) T {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %s", limit))
	defer cancel()
	done := make(chan T, 1)
	go func() { done <- run(ctx) }()
	select {
	case result := <-done:
		return result
	case <-ctx.Done():
		return late(context.Cause(ctx))
	}
}

// reachEngine asks the Engine what it is.
func (h *host) reachEngine(ctx context.Context) {
	type answer struct {
		info    *dockerengine.Info
		address string
		err     error
	}
	got := within(ctx, h.limit, func(ctx context.Context) answer {
		engine, err := dockerengine.Open(ctx)
		if err != nil {
			return answer{err: err}
		}
		defer engine.Close()
		info, err := engine.Info(ctx)
		if err != nil {
			return answer{address: engine.Host(), err: err}
		}
		return answer{&info, engine.Host(), nil}
	}, func(err error) answer {
		return answer{err: fmt.Errorf("asking the Docker Engine: %w", err)}
	})
	h.engine, h.address, h.engineErr = got.info, got.address, got.err
}
