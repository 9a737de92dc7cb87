package publish

import (
	"encoding/csv"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodeimg/nodeimg/recipes"
)

// OutputType is a kind of output, the value of "type" in -o.
type OutputType string

// The output types.
const (
	// OutputOCI is an OCI image layout folder.
	OutputOCI OutputType = "oci"
	// OutputOCIArchive is an OCI image layout in an uncompressed tar.
	OutputOCIArchive OutputType = "oci-archive"
	// OutputDocker is the Docker Engine or, with a Dest, a docker-archive.
	OutputDocker OutputType = "docker"
)

var outputTypes = []OutputType{OutputOCI, OutputOCIArchive, OutputDocker}

// Output is one parsed -o.
type Output struct {
	Type OutputType
	// Dest is a folder (oci) or a file (oci-archive, docker). It is empty for the default: ./out/NAME for oci, the Docker Engine for
	// docker.
	Dest string
}

// ParseOutput reads an -o value: comma-separated key=value pairs as in docker buildx, for instance type=oci-archive,dest=node.tar; a
// value without a key is a folder to put an OCI layout in. The error is a *recipes.InputError.
func ParseOutput(s string) (Output, error) {
	reader := csv.NewReader(strings.NewReader(s))
	fields, err := reader.Read()
	if err != nil || strings.ContainsAny(s, "\r\n") {
		return Output{}, recipes.InputErrorf("output %q: expected comma-separated key=value pairs, for instance type=oci,dest=out/node", s)
	}
	if len(fields) == 1 && !strings.Contains(fields[0], "=") {
		return Output{Type: OutputOCI, Dest: fields[0]}, nil
	}
	var out Output
	var problems []recipes.Problem
	wrong := func(message string) {
		problems = append(problems, recipes.Problem{Field: "output " + s, Message: message})
	}
	seen := map[string]bool{}
	for _, field := range fields {
		key, value, found := strings.Cut(field, "=")
		key = strings.ToLower(strings.TrimSpace(key))
		switch {
		case !found:
			wrong("\"" + field + "\" is not key=value")
		case seen[key]:
			wrong("\"" + key + "\" is given twice")
		case key == "type":
			out.Type = OutputType(strings.ToLower(value))
		case key == "dest" && value == "":
			wrong("\"dest\" is empty; leave it out for the default")
		case key == "dest":
			out.Dest = value
		default:
			wrong("unknown key \"" + key + "\"; expected type or dest")
		}
		seen[key] = true
	}
	switch {
	case out.Type == "" && !seen["type"]:
		wrong("\"type\" is missing; expected one of " + typeList())
	case seen["type"] && !slices.Contains(outputTypes, out.Type):
		wrong("unknown type \"" + string(out.Type) + "\"; expected one of " + typeList())
	case out.Type == OutputOCIArchive && out.Dest == "" && !seen["dest"]:
		wrong("type=oci-archive needs dest=FILE")
	}
	if len(problems) > 0 {
		return Output{}, recipes.NewInputError(problems...)
	}
	return out, nil
}

func typeList() string {
	names := make([]string, len(outputTypes))
	for i, t := range outputTypes {
		names[i] = string(t)
	}
	return strings.Join(names, ", ")
}

// Check fails before a long build when the output could not be written afterwards: the destination is something else than what would
// replace it. The error is a *recipes.InputError.
func (o Output) Check(name string) error {
	switch dest := o.Destination(name); {
	case o.Type == OutputOCI:
		return checkLayoutDestination(dest)
	case dest != "":
		return checkFileDestination(dest)
	default:
		return nil
	}
}

// Destination is Dest or its default for a recipe of that name; it is empty for the Docker Engine.
func (o Output) Destination(name string) string {
	if o.Type == OutputOCI && o.Dest == "" {
		return filepath.Join("out", name)
	}
	return o.Dest
}

// layoutEntries are what a layout folder may hold that is replaced; ingest is where containerd's content store, which BuildKit writes
// layouts with, keeps unfinished blobs.
var layoutEntries = []string{"blobs", "index.json", "ingest", "oci-layout"}

// checkLayoutDestination refuses to replace anything but an OCI layout or an empty folder.
func checkLayoutDestination(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return recipes.InputErrorf("output %s: %v; name a folder that does not exist yet", dir, err)
	}
	layout := len(entries) == 0
	for _, entry := range entries {
		if !slices.Contains(layoutEntries, entry.Name()) {
			return recipes.InputErrorf("output %s: it holds %q and is not replaced, because it is something else than an OCI layout; name another folder", dir, entry.Name())
		}
		layout = layout || entry.Name() == "oci-layout"
	}
	if !layout {
		return recipes.InputErrorf("output %s: it is not replaced, because it is neither empty nor an OCI layout; name another folder", dir)
	}
	return nil
}

// checkFileDestination refuses to replace anything but a regular file.
func checkFileDestination(file string) error {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return recipes.InputErrorf("output %s: %v", file, err)
	}
	if !info.Mode().IsRegular() {
		return recipes.InputErrorf("output %s: it is not a regular file; name a file", file)
	}
	return nil
}
