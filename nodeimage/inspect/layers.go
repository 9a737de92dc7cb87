package inspect

import (
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nodeimg/nodeimg/recipes"
)

// longestInstruction is how many characters of a layer's instruction are shown.
const longestInstruction = 100

// layerText is what is said about a layer.
type layerText struct{ holds, createdBy string }

// known are the instructions of the Dockerfiles that nodeimg generates (package dockerfiles), as BuildKit writes them into the history.
var known = []struct {
	pattern *regexp.Regexp
	holds   string
}{
	{regexp.MustCompile(`install-packages\.sh`), "distribution packages"},
	{regexp.MustCompile(`setup\.sh`), "accounts, enabled units and links of the node"},
	{regexp.MustCompile(`^COPY (--\S+ )*--chmod=0?755 (--\S+ )*/ /( |$)`), "Kubernetes, container runtime and network programs"},
	{regexp.MustCompile(`^COPY (--\S+ )*/ /( |$)`), "units, configuration and scripts of the node"},
	{regexp.MustCompile(`^nodeimg: preload ([^,]*)$`), "image $1"},
	{regexp.MustCompile(`^nodeimg: preload (.*)$`), "images $1"},
	{regexp.MustCompile(`^nodeimg: (.*)$`), "$1"},
}

var (
	storePattern = regexp.MustCompile(`^COPY (--\S+ )*/\S*/ ` + regexp.QuoteMeta(recipes.StorePath) + `/`)
	filePattern  = regexp.MustCompile(`^(?:COPY|ADD) (?:--\S+ )*(?:\S+ )+(\S+)$`)
	runPattern   = regexp.MustCompile(`^RUN (?:--\S+ )*(.*)$`)
	spaces       = regexp.MustCompile(`\s+`)
)

// describeLayers says for each of count layers what it holds. A layer without a history entry of its own has no text.
func describeLayers(config *v1.ConfigFile, count int, r *Report) []layerText {
	texts := make([]layerText, count)
	var instructions []string
	var stores int
	for _, entry := range config.History {
		if entry.EmptyLayer {
			continue
		}
		text := instruction(entry)
		if storePattern.MatchString(text) {
			stores++
		}
		instructions = append(instructions, text)
	}
	// One instruction copies one image, in the order of the label; other numbers are from another generator.
	named := stores == len(r.Preloaded)
	var store int
	ours := false
	for i := range min(count, len(instructions)) {
		text := instructions[i]
		holds, own := describe(text)
		switch {
		case storePattern.MatchString(text) && named:
			holds, own = "image "+r.Preloaded[store].Reference, true
			store++
		case storePattern.MatchString(text):
			holds, own = "preloaded images", true
		case !own && !ours:
			// What comes before the first instruction of ours is the base.
			holds = "base: " + r.Distro.String()
		}
		ours = ours || own
		texts[i] = layerText{holds: holds, createdBy: shorten(text)}
	}
	return texts
}

// instruction is the entry's Dockerfile instruction without what BuildKit and Docker add to it.
func instruction(entry v1.History) string {
	text := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(entry.CreatedBy), "# buildkit"))
	text = strings.Replace(text, "/bin/sh -c #(nop) ", "", 1)
	text = strings.Replace(text, "/bin/sh -c ", "", 1)
	return strings.TrimSpace(spaces.ReplaceAllString(text, " "))
}

// describe says what an instruction makes, and whether it is one that nodeimg generates in every image.
func describe(text string) (holds string, own bool) {
	for _, k := range known {
		if match := k.pattern.FindStringSubmatchIndex(text); match != nil {
			return string(k.pattern.ExpandString(nil, k.holds, text, match)), true
		}
	}
	if match := filePattern.FindStringSubmatch(text); match != nil {
		return "files in " + match[1], false
	}
	if match := runPattern.FindStringSubmatch(text); match != nil {
		return "result of " + shorten(match[1]), false
	}
	return shorten(text), false
}

func shorten(text string) string {
	if runes := []rune(text); len(runes) > longestInstruction {
		return string(runes[:longestInstruction-1]) + "…"
	}
	return text
}
