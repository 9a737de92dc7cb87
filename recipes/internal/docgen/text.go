package main

import (
	"fmt"
	"strings"

	"github.com/invopop/jsonschema"

	"github.com/nodeimg/nodeimg/recipes"
)

// varying are the defaults that do not stand in the shortest recipe, because they depend on something else.
var varying = map[string]string{
	"spec.base.release": "see [distributions](#distributions)",
	"spec.base.image":   "see [distributions](#distributions)",
	"spec.platforms":    "this machine's",
}

func (r *reference) distributions() string {
	var b strings.Builder
	b.WriteString("| `distro` | `release` | code name | default `image` |\n|---|---|---|---|\n")
	for _, d := range recipes.Distros() {
		note := ""
		if first, ok := recipes.FindDistro(d.Name, ""); ok && first == d {
			note = " (default)"
		}
		fmt.Fprintf(&b, "| `%s` | `\"%s\"`%s | %s | `%s` |\n", d.Name, d.Release, note, d.Codename, d.Image)
	}
	return b.String()
}

// limits is what the format has and validation refuses.
func (r *reference) limits() string {
	var b strings.Builder
	_ = r.EachField(func(path string, _ *jsonschema.Schema) error {
		if refused := r.missing[path]; len(refused) > 0 {
			var values []string
			for _, m := range refused {
				values = append(values, "`"+m.value+"`")
			}
			fmt.Fprintf(&b, "* `%s`: %s. What works now is %s.\n", path, strings.Join(values, " and "), refused[0].now)
		}
		return nil
	})
	if r.severalPlatforms != "" {
		fmt.Fprintf(&b, "* `spec.platforms`: %s.\n", r.severalPlatforms)
	}
	return b.String()
}
