package display

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

// AreaBuild is the area of the steps that BuildKit did.
const AreaBuild = "build"

// Timing says when one step ran.
type Timing struct {
	// Name of the step as on the screen.
	Name string
	// Area is the word in brackets that nodeimg's own steps begin with, for instance fetch, and AreaBuild for all others.
	Area string
	// Cached says that the result was there already.
	Cached bool
	// Failed says that the step ended with an error.
	Failed bool
	// Spans are when the step ran, in order and without overlap: BuildKit may take a step up more than once.
	Spans []Span
}

// Span is a time from Start to End.
type Span struct{ Start, End time.Time }

// Duration is how long the step ran in all.
func (t Timing) Duration() time.Duration { return total(t.Spans) }

func total(spans []Span) time.Duration {
	var sum time.Duration
	for _, s := range spans {
		sum += s.End.Sub(s.Start)
	}
	return sum
}

// union returns the spans in order, those that touch or overlap joined.
func union(spans []Span) []Span {
	spans = slices.SortedFunc(slices.Values(spans), func(a, b Span) int { return a.Start.Compare(b.Start) })
	var joined []Span
	for _, s := range spans {
		if n := len(joined); n > 0 && !s.Start.After(joined[n-1].End) {
			if s.End.After(joined[n-1].End) {
				joined[n-1].End = s.End
			}
			continue
		}
		joined = append(joined, s)
	}
	return joined
}

// clock collects the times of vertices.
type clock struct {
	steps map[digest.Digest]*ticking
}

// ticking is one step; its spans are keyed by their start, because every update of a running step repeats it.
type ticking struct {
	name           string
	cached, failed bool
	spans          map[int64]Span
}

func newClock() clock { return clock{steps: map[digest.Digest]*ticking{}} }

func (c clock) add(s *client.SolveStatus) {
	for _, v := range s.Vertexes {
		step := c.steps[v.Digest]
		if step == nil {
			step = &ticking{spans: map[int64]Span{}}
			c.steps[v.Digest] = step
		}
		step.name = v.Name
		step.cached = step.cached || v.Cached
		step.failed = v.Error != ""
		if v.Started != nil && v.Completed != nil {
			step.spans[v.Started.UnixNano()] = Span{Start: *v.Started, End: *v.Completed}
		}
	}
}

func (c clock) timings() []Timing {
	var all []Timing
	for _, step := range c.steps {
		if len(step.spans) == 0 {
			continue
		}
		all = append(all, Timing{
			Name: step.name, Area: area(step.name), Cached: step.cached, Failed: step.failed,
			Spans: union(slices.Collect(maps.Values(step.spans))),
		})
	}
	slices.SortFunc(all, func(a, b Timing) int {
		return cmp.Or(cmp.Compare(b.Duration(), a.Duration()), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// area returns the area of a step's name. BuildKit's own prefixes of a single word are "[internal]" and "[auth]".
func area(name string) string {
	rest, ok := strings.CutPrefix(name, "[")
	if !ok {
		return AreaBuild
	}
	word, _, ok := strings.Cut(rest, "] ")
	if !ok || word == "" || word == "internal" || word == "auth" || strings.Trim(word, "abcdefghijklmnopqrstuvwxyz-") != "" {
		return AreaBuild
	}
	return word
}

// PrintTimings writes a table of the steps to w, and below it how long each area and everything took by the clock: steps that ran at
// the same time count once.
func PrintTimings(w io.Writer, timings []Timing) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SECONDS\tSTEP")
	areas := map[string][]Span{}
	var everything []Span
	for _, t := range timings {
		note := ""
		if t.Cached {
			note = " (cached)"
		}
		if t.Failed {
			note = " (failed)"
		}
		fmt.Fprintf(table, "%.1f\t%s%s\n", t.Duration().Seconds(), t.Name, note)
		areas[t.Area] = append(areas[t.Area], t.Spans...)
		everything = append(everything, t.Spans...)
	}
	fmt.Fprintln(table)
	fmt.Fprintln(table, "SECONDS\tAREA")
	names := slices.SortedFunc(maps.Keys(areas), func(a, b string) int {
		return cmp.Or(cmp.Compare(total(union(areas[b])), total(union(areas[a]))), cmp.Compare(a, b))
	})
	for _, name := range names {
		fmt.Fprintf(table, "%.1f\t%s\n", total(union(areas[name])).Seconds(), name)
	}
	fmt.Fprintf(table, "%.1f\ttotal\n", total(union(everything)).Seconds())
	if err := table.Flush(); err != nil {
		return fmt.Errorf("writing the timings: %w", err)
	}
	return nil
}
