package builder

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/moby/buildkit/client"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/opencontainers/go-digest"
)

// tailLines is how many of a failing step's last lines a StepError carries.
const tailLines = 20

// tailBytes bounds what is kept of every running step's output.
const tailBytes = 16 << 10

// nameRunes bounds a step's name in an error.
const nameRunes = 100

// Range is a range of lines of the Dockerfile, the first line being 1, both ends included.
type Range struct {
	StartLine, EndLine int
}

// StepError says that one step of the Dockerfile failed, or that the Dockerfile itself is wrong.
type StepError struct {
	// Name of the step on the screen, for instance "[runtime 3/7] RUN make"; empty when the Dockerfile could not be read.
	Name string
	// Command that the step ran; empty for steps that are not RUN.
	Command string
	// ExitCode of the command; -1 when it did not exit by itself.
	ExitCode int
	// Log is the end of the step's output, at most 20 lines.
	Log []string
	// Ranges are the lines of the Dockerfile that the step comes from.
	Ranges []Range
	// Err is what BuildKit said.
	Err error
}

// Error names the step, its lines and the end of its output.
func (e *StepError) Error() string {
	var b strings.Builder
	if e.Name != "" {
		fmt.Fprintf(&b, "step %s", shortName(e.Name))
	} else {
		b.WriteString("reading the Dockerfile")
	}
	if len(e.Ranges) > 0 {
		r := e.Ranges[0]
		if r.EndLine > r.StartLine {
			fmt.Fprintf(&b, " (Dockerfile lines %d to %d)", r.StartLine, r.EndLine)
		} else {
			fmt.Fprintf(&b, " (Dockerfile line %d)", r.StartLine)
		}
	}
	if e.ExitCode > 0 {
		fmt.Fprintf(&b, ": exit code %d", e.ExitCode)
	} else {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	for _, line := range e.Log {
		b.WriteString("\n  | " + line)
	}
	return b.String()
}

// Unwrap returns what BuildKit said.
func (e *StepError) Unwrap() error { return e.Err }

// stepError finds the step in a solve's error; nil when the error is not one of a step.
func stepError(rec *recorder, err error) *StepError {
	step := &StepError{ExitCode: -1, Err: err}
	for _, source := range errdefs.Sources(err) {
		for _, r := range source.GetRanges() {
			start, end := int(r.GetStart().GetLine()), int(r.GetEnd().GetLine())
			end = max(start, end)
			// BuildKit gives one range per line of an instruction that goes over several.
			if n := len(step.Ranges); n > 0 && step.Ranges[n-1].EndLine+1 == start {
				step.Ranges[n-1].EndLine = end
				continue
			}
			step.Ranges = append(step.Ranges, Range{StartLine: start, EndLine: end})
		}
	}
	var vertex *errdefs.VertexError
	if errors.As(err, &vertex) {
		step.Name, step.Log = rec.vertex(digest.Digest(vertex.GetDigest()))
	}
	var exit *gatewaypb.ExitError
	if errors.As(err, &exit) && exit.ExitCode != gatewaypb.UnknownExitStatus {
		step.ExitCode = int(exit.ExitCode)
	}
	if _, command, ok := strings.Cut(step.Name, " RUN "); ok {
		step.Command = withoutFlags(command)
	}
	if step.Name == "" && len(step.Ranges) == 0 {
		return nil
	}
	return step
}

// shortName is a step's name without the flags of its RUN instruction, and of bearable length: the whole of it stands in the Dockerfile.
func shortName(name string) string {
	if stage, command, ok := strings.Cut(name, " RUN "); ok {
		name = stage + " RUN " + withoutFlags(command)
	}
	if runes := []rune(name); len(runes) > nameRunes {
		name = string(runes[:nameRunes-1]) + "…"
	}
	return name
}

// withoutFlags drops the leading --mount=…, --network=… of a RUN instruction.
func withoutFlags(command string) string {
	for strings.HasPrefix(command, "--") {
		_, rest, _ := strings.Cut(command, " ")
		command = strings.TrimLeft(rest, " ")
	}
	return command
}

// recorder remembers the names and the last output of a solve's vertices.
type recorder struct {
	mu    sync.Mutex
	names map[digest.Digest]string
	tails map[digest.Digest][]byte
}

func newRecorder() *recorder {
	return &recorder{names: map[digest.Digest]string{}, tails: map[digest.Digest][]byte{}}
}

func (r *recorder) add(s *client.SolveStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range s.Vertexes {
		r.names[v.Digest] = v.Name
	}
	for _, l := range s.Logs {
		tail := append(r.tails[l.Vertex], l.Data...)
		if over := len(tail) - tailBytes; over > 0 {
			tail = bytes.Clone(tail[over:])
		}
		r.tails[l.Vertex] = tail
	}
}

func (r *recorder) vertex(d digest.Digest) (name string, log []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := strings.TrimRight(string(r.tails[d]), "\r\n")
	if text != "" {
		log = strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
		log = log[max(0, len(log)-tailLines):]
	}
	return r.names[d], log
}
