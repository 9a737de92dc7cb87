package dockerfiles

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/nodeimg/nodeimg/recipes"
)

// BrokerSocket is the id of the ssh mount through which a build step reaches nodeimg's broker; the caller forwards a raw unix socket
// under this id.
const BrokerSocket = "nodeimg-broker"

// InnerVariable marks the build steps that start a container runtime of the node: it is in the environment of their processes and not
// empty. Where Sysbox is there, nodeimg's own builder runs these steps, and only these, with sysbox-runc. It is an argument of stages
// from which the image only copies, so that neither the image's configuration nor any of its layers knows it.
const InnerVariable = "NODEIMG_INNER"

// Names of the build contexts.
const (
	contextBase     = "base"
	contextBuild    = "build"
	contextFiles    = "files"
	contextNode     = "node-files"
	contextPackages = "packages"
	contextParts    = "parts"
	contextStore    = "store"
)

// Where build steps see the build scripts and the broker. Below /run, because BuildKit leaves empty mount points in the layer and /run
// is covered by a tmpfs in a running node.
const (
	stepDir      = "/run/nodeimg"
	stepPackages = "/run/nodeimg/packages"
	stepBroker   = "/run/nodeimg/broker.sock"
)

// Preload says how the Dockerfile gets the preloaded images.
type Preload int

const (
	// PreloadPull has one stage per image in which the node's containerd pulls through nodeimg's broker.
	PreloadPull Preload = iota
	// PreloadNone leaves the images out: their layers are appended to what BuildKit has built, and the labels, which name them, are set then.
	// So the Dockerfile stays the same when an image changes.
	PreloadNone
	// PreloadContext copies the finished store from the context "store", so that no broker is needed.
	PreloadContext
)

// Result is what a recipe compiles to.
type Result struct {
	// Dockerfile is the text; it names no remote frontend.
	Dockerfile []byte
	// Contexts are the named build contexts, sorted by name.
	Contexts []Context
	// Layers is the largest number of layers that the Dockerfile adds to the base.
	Layers int
	// Fields maps lines of the Dockerfile to recipe fields, in the order of the lines.
	Fields []FieldRange
}

// Context is a named build context: either files or an OCI image layout.
type Context struct {
	// Name as the Dockerfile uses it.
	Name string
	// Files are sorted by Path. Directories are implied.
	Files []ContextFile
	// Layout is the digest of an image manifest in the cache; set instead of Files.
	Layout string
}

// ContextFile is one file of a build context, owned by root.
type ContextFile struct {
	// Path is relative and slash-separated.
	Path string
	// Mode is the permission.
	Mode fs.FileMode
	// Content is the file's content unless Blob or Link is set.
	Content []byte
	// Blob is the digest of the content in the cache.
	Blob string
	// Size of the content in bytes.
	Size int64
	// Link makes the entry a symbolic link to this path.
	Link string
}

// FieldRange says that the Dockerfile's lines First to Last, counted from 1, come from the recipe field Field, for instance spec.run[0].
type FieldRange struct {
	First, Last int
	Field       string
}

// Field returns the recipe field that a line of the Dockerfile, counted from 1, comes from; empty when there is none.
func (r *Result) Field(line int) string {
	for _, f := range r.Fields {
		if f.First <= line && line <= f.Last {
			return f.Field
		}
	}
	return ""
}

// PreloadFor says how nodeimg itself builds the recipe's images in.
func PreloadFor(recipe recipes.Recipe) Preload {
	if recipe.Spec.EngineUsed() == recipes.EngineInner {
		return PreloadPull
	}
	return PreloadNone
}

// Compile turns a defaulted and validated recipe and its lock into a Dockerfile. It returns an error when recipe and lock do not fit
// together: no template for the distribution, or no sandbox image in the lock.
func Compile(recipe recipes.Recipe, lock recipes.Lock, preload Preload) (*Result, error) {
	family, ok := families[lock.Base.Distro]
	if !ok {
		return nil, fmt.Errorf("compiling recipe %s: no Dockerfile template for the distribution %q", recipe.Metadata.Name, lock.Base.Distro)
	}
	runtime, err := criRuntimeOf(recipe)
	if err != nil {
		return nil, fmt.Errorf("compiling recipe %s: %w", recipe.Metadata.Name, err)
	}
	node, err := nodeFiles(recipe, lock, runtime)
	if err != nil {
		return nil, fmt.Errorf("compiling recipe %s: %w", recipe.Metadata.Name, err)
	}
	build, err := embeddedFiles("node/build", "")
	if err != nil {
		return nil, fmt.Errorf("compiling recipe %s: %w", recipe.Metadata.Name, err)
	}
	contexts := []Context{
		{Name: contextBase, Layout: lock.Base.Digest},
		{Name: contextBuild, Files: build},
		{Name: contextNode, Files: node},
		{Name: contextParts, Files: partFiles(lock.Parts)},
	}
	var w writer
	w.add("", header(recipe, lock, preload))
	w.add("spec.base", "FROM "+contextBase+" AS system\n")
	if recipe.Spec.Base.From == recipes.FromImage && len(lock.Packages) > 0 {
		w.add("spec.packages", family.install())
		contexts = append(contexts, Context{Name: contextPackages, Files: packageFiles(lock.Packages)})
	}
	w.add("spec.kubernetes", fmt.Sprintf("FROM system AS runtime\nCOPY --link --chmod=0755 --from=%s / /\n", contextParts))
	var stages []string
	if preload == PreloadPull {
		for i, image := range lock.Images {
			stage := "preload-" + strconv.Itoa(i)
			stages = append(stages, stage)
			w.addStage(imageField(recipe, image), pullStage(stage, image))
		}
	}
	w.add("spec", fmt.Sprintf("FROM runtime AS node\nCOPY --from=%s / /\n%s", contextNode, step("setup.sh", nil)))
	if files := userFiles(lock.Files); len(files) > 0 {
		w.add("spec.files", fmt.Sprintf("COPY --from=%s / /\n", contextFiles))
		contexts = append(contexts, Context{Name: contextFiles, Files: files})
	}
	for i, script := range recipe.Spec.Run {
		w.add(fmt.Sprintf("spec.run[%d]", i), runStep(script))
	}
	final := "FROM node\n"
	for _, stage := range stages {
		final += fmt.Sprintf("COPY --link --from=%s /out/ %s/\n", stage, recipes.StorePath)
	}
	if preload == PreloadContext {
		final += fmt.Sprintf("COPY --link --from=%s / %s/\n", contextStore, path.Dir(recipes.StorePath))
		contexts = append(contexts, Context{Name: contextStore})
	}
	if strings.Count(final, "\n") > 1 {
		w.add("spec.preload", final)
	}
	labels := map[string]string{}
	if preload != PreloadNone {
		if labels, err = Labels(recipe, lock); err != nil {
			return nil, fmt.Errorf("compiling recipe %s: %w", recipe.Metadata.Name, err)
		}
	}
	w.add("metadata", imageConfig(runtime, labels))
	slices.SortFunc(contexts, func(a, b Context) int { return cmp.Compare(a.Name, b.Name) })
	return &Result{Dockerfile: []byte(w.text.String()), Contexts: contexts, Fields: w.fields, Layers: w.layers}, nil
}

// writer collects blocks of Dockerfile text and remembers which field each came from.
type writer struct {
	text   strings.Builder
	line   int
	fields []FieldRange
	layers int
}

// addStage adds a stage that is not part of the image.
func (w *writer) addStage(field, block string) {
	layers := w.layers
	w.add(field, block)
	w.layers = layers
}

func (w *writer) add(field, block string) {
	if w.line > 0 {
		w.text.WriteByte('\n')
		w.line++
	}
	w.text.WriteString(block)
	for line := range strings.Lines(block) {
		if strings.HasPrefix(line, "COPY ") || strings.HasPrefix(line, "RUN ") {
			w.layers++
		}
	}
	lines := strings.Count(block, "\n")
	if field != "" {
		w.fields = append(w.fields, FieldRange{First: w.line + 1, Last: w.line + lines, Field: field})
	}
	w.line += lines
}

func header(recipe recipes.Recipe, lock recipes.Lock, preload Preload) string {
	text := fmt.Sprintf("# Generated by nodeimg from the recipe %s for %s. Do not edit: change the recipe.\n", recipe.Metadata.Name, lock.Platform)
	if preload == PreloadNone {
		text += "# Preloaded images are no part of it: with engine direct nodeimg appends their layers and sets the labels.\n"
	}
	return text
}

// family is what differs between the distributions' package tools.
type family struct {
	// install is the build step that installs the package files of the context "packages" without network.
	install func() string
}

// families maps a distribution to its template. A distribution with dnf gets an entry of its own here, an install script beside
// node/build/install-packages.sh and a resolver beside sources/packages.
var families = map[string]family{
	"debian": {install: installApt},
	"ubuntu": {install: installApt},
}

// step is a build step without network that runs one of the scripts of node/build. Only that script is mounted, so that a change to
// another one does not run this step again.
func step(script string, mounts []string, arguments ...string) string {
	target := stepDir + "/" + script
	mounts = append([]string{fmt.Sprintf("type=bind,from=%s,source=%s,target=%s", contextBuild, script, target)}, mounts...)
	var b strings.Builder
	b.WriteString("ARG SOURCE_DATE_EPOCH\nRUN --network=none \\\n")
	for _, mount := range mounts {
		fmt.Fprintf(&b, "    --mount=%s \\\n", mount)
	}
	fmt.Fprintf(&b, "    [%q", target)
	for _, argument := range arguments {
		fmt.Fprintf(&b, ", %q", argument)
	}
	b.WriteString("]\n")
	return b.String()
}

func installApt() string {
	return step("install-packages.sh", []string{fmt.Sprintf("type=bind,from=%s,target=%s", contextPackages, stepPackages)}, stepPackages)
}

func pullStage(stage string, image recipes.LockedImage) string {
	broker := fmt.Sprintf("type=ssh,id=%s,target=%s,mode=0666,required=true", BrokerSocket, stepBroker)
	return fmt.Sprintf("FROM runtime AS %s\nARG %s=1\n%s", stage, InnerVariable, step("pull.sh", []string{broker}, image.Reference, image.Platform, image.Digest))
}

// runStep is a heredoc, so that a failing line is shown as the user wrote it.
func runStep(script string) string {
	mark := "NODEIMG"
	for strings.Contains(script, mark) {
		mark += "_"
	}
	return fmt.Sprintf("RUN --network=none <<'%s'\nset -eu\n%s\n%s\n", mark, strings.TrimRight(script, "\n"), mark)
}

func imageField(recipe recipes.Recipe, image recipes.LockedImage) string {
	if image.Role == recipes.RoleUser {
		if i := slices.Index(recipe.Spec.Preload.Images, image.Source); i >= 0 {
			return fmt.Sprintf("spec.preload.images[%d]", i)
		}
		return "spec.preload.images"
	}
	if image.Role == recipes.RoleCNI {
		return "spec.cni"
	}
	if image.Role == recipes.RoleStorage {
		return "spec.storage"
	}
	return "spec.preload.controlPlane"
}

// Labels are the labels that a node image carries, so that "nodeimg inspect" needs nothing but the image's config.
func Labels(recipe recipes.Recipe, lock recipes.Lock) (map[string]string, error) {
	preloaded, err := PreloadedLabel(lock.Images)
	if err != nil {
		return nil, err
	}
	return map[string]string{
		recipes.LabelName:       recipe.Metadata.Name,
		recipes.LabelRecipe:     recipes.ContentID(&recipe, &lock),
		recipes.LabelKubernetes: recipe.Spec.Kubernetes.Version,
		recipes.LabelDistro:     lock.Base.Distro + " " + lock.Base.Release,
		recipes.LabelCRI:        string(recipe.Spec.CRI.Name) + " " + recipe.Spec.CRI.Version,
		recipes.LabelCNI:        string(recipe.Spec.CNI.Name),
		recipes.LabelPreloaded:  preloaded,
	}, nil
}

// PreloadedLabel is the value of recipes.LabelPreloaded for the images.
func PreloadedLabel(images []recipes.LockedImage) (string, error) {
	preloaded := make([]recipes.Preloaded, 0, len(images))
	for _, image := range images {
		preloaded = append(preloaded, recipes.Preloaded{Reference: image.Reference, Digest: image.Digest, Size: image.Bytes, Platform: image.Platform})
	}
	text, err := json.Marshal(preloaded)
	if err != nil {
		return "", fmt.Errorf("encoding label %s: %w", recipes.LabelPreloaded, err)
	}
	return string(text), nil
}

// imageConfig is what stock kind and plain "docker run" expect of the image's config (kind: pkg/build/nodeimage; SIGRTMIN+3 is systemd's
// signal for a clean halt, systemd(1)).
func imageConfig(runtime criRuntime, labels map[string]string) string {
	var b strings.Builder
	b.WriteString("ENV container=docker\n" + runtime.imageConfig() + "STOPSIGNAL SIGRTMIN+3\nENTRYPOINT [\"/usr/lib/nodeimg/entrypoint.sh\", \"/sbin/init\"]\n")
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`)
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		fmt.Fprintf(&b, "LABEL %s=\"%s\"\n", key, quote.Replace(labels[key]))
	}
	return b.String()
}
